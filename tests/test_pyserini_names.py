"""Topics and qrels by Pyserini's names, with ids as they stand in the files."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank.errors import InputError

pytestmark = pytest.mark.java


ROOT = Path(__file__).parent.parent

# In a process of its own, as Anserini looks only once for the folder that it keeps files in.
READ = """
import json, sys
from qpeft_rerank.errors import InputError
from qpeft_rerank.java import java_class
from qpeft_rerank.pyserini_names import qrels_by_name, topics_by_name
java_class("java.lang.System").setProperty("user.home", sys.argv[1])
print(json.dumps([topics_by_name("dl19-passage"), qrels_by_name("dl19-passage")]))
print(json.dumps([topics_by_name("robust04", field) for field in ("title", "desc", "narr")]))
for wrong in (lambda: topics_by_name("dl19-passage", "desc"), lambda: qrels_by_name("dl20-passage")):
    try:
        wrong()
    except InputError as error:
        print(error)
"""

TREC = """<top>
<num> Number: 301
<title> Title here

<desc> Description:
One sentence.

<narr> Narrative:
Two sentences.
</top>
"""


def test_ids_keep_their_zeros_and_an_empty_copy_is_an_error(tmp_path):
    kept = tmp_path / ".cache" / "pyserini" / "topics-and-qrels"
    kept.mkdir(parents=True)
    (kept / "topics.dl19-passage.txt").write_text("12\tsecond topic\n007\tfirst 😀 topic\n")
    (kept / "topics.robust04.txt").write_text(TREC)
    (kept / "qrels.dl19-passage.txt").write_text("007 0 0042 3\n12 0 5 0\n")
    (kept / "qrels.dl20-passage.txt").touch()
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYSERINI_CACHE": str(tmp_path / ".cache" / "pyserini")}
    done = subprocess.run(
        [sys.executable, "-c", READ, tmp_path], env=env, capture_output=True, text=True, timeout=300
    )
    read, parts, no_field, empty = done.stdout.splitlines()
    assert json.loads(read) == [
        {"007": "first 😀 topic", "12": "second topic"},
        {"007": {"0042": 3}, "12": {"5": 0}},
    ]
    assert json.loads(parts) == [{"301": text} for text in ("Title here", "One sentence.", "Two sentences.")]
    assert no_field == "topics dl19-passage: topic 007 has no desc (fields: title)"
    assert "is empty; remove it" in empty


@pytest.mark.parametrize("kind", ["topics", "qrels"])
def test_an_unknown_name_is_an_error_that_shows_near_ones(kind):
    from qpeft_rerank import pyserini_names

    by_name = getattr(pyserini_names, f"{kind}_by_name")
    with pytest.raises(
        InputError, match=rf"neither a {kind} file nor the name of {kind} that Pyserini knows .*dl19-passage"
    ):
        by_name("dl19-pasage")


def test_the_root_logger_is_left_alone():
    from qpeft_rerank.pyserini_names import _pyserini_search

    before = list(logging.getLogger().handlers)
    _pyserini_search()
    assert logging.getLogger().handlers == before
