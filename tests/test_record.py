"""A record says all that is needed to make the same result again."""

import json
import subprocess
import sys

import torch
import transformers

from qpeft_rerank.record import first_difference, git_revision, package_versions, run_record
from qpeft_rerank.version import __version__


def test_a_record_holds_settings_versions_and_revision_as_json() -> None:
    record = json.loads(json.dumps(run_record({"depth": 100})))
    assert record["settings"] == {"depth": 100} and record["qpeft_rerank"] == __version__
    assert (
        record["packages"]["torch"] == torch.__version__
        and record["packages"]["transformers"] == transformers.__version__
    )
    assert {"python", "machine", "written", "git_revision"} <= set(record)


def test_the_first_setting_that_differs_is_told_with_its_place_and_values() -> None:
    before = {"a": 1, "scorer": {"k": 15, "lora": {"rank": 0}}, "z": 1}
    assert first_difference(before, json.loads(json.dumps(before))) is None
    now = {**before, "z": 2, "scorer": {"k": 15, "lora": {"rank": 4}}}
    assert first_difference(before, now) == ("scorer.lora.rank", 0, 4)
    assert first_difference(before, {**before, "new": True}) == ("new", None, True)
    assert first_difference(before, {**before, "scorer": None}) == ("scorer", before["scorer"], None)


def test_packages_that_are_not_there_are_left_out() -> None:
    assert None not in package_versions().values() and "numpy" in package_versions()


def test_the_revision_is_that_of_a_checkout_or_none() -> None:
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("+changes")) == 40


def test_a_record_needs_no_torch() -> None:
    code = (
        "import sys; from qpeft_rerank.record import run_record; run_record({});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
