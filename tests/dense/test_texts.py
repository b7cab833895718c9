"""Text becomes passages that follow each other, and stays on the disk."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import numpy as np
import pytest

from qpeft_rerank.dense import texts
from qpeft_rerank.dense.texts import Followed, Picked, Texts, cut_document, read_texts
from qpeft_rerank.errors import InputError


def test_plain_text_is_cut_at_ends_of_sentences_within_its_document(tmp_path):
    sentences = [f"Sentence {i} has exactly six words." for i in range(7)]
    (tmp_path / "text.txt").write_text(
        "\n".join(sentences[:3]) + " " + sentences[3] + "\n\n\n" + sentences[4] + "\n"
    )
    found = list(read_texts([tmp_path / "text.txt"], words=12))
    two = [" ".join(sentences[:2]), " ".join(sentences[2:4])]
    assert found == [Followed(two[0], two[1]), Followed(two[1], ""), Followed(sentences[4], "")]


def test_a_short_rest_stays_with_the_passage_before():
    text = "One two three four five six seven eight. Nine."
    assert list(cut_document([text], 8)) == [text]
    assert list(cut_document([], 8)) == []


def test_a_corpus_gives_its_passages_and_titles_say_where_a_document_ends(tmp_path):
    records = [("a", "One", "x"), ("b", "One", "y"), ("c", "Two", "z"), ("d", "", "u"), ("e", "", "v")]
    records.insert(1, ("f", "", " "))  # a passage without words is none
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": title, "text": text}) + "\n" for i, title, text in records)
    )
    found = read_texts([tmp_path / "c.jsonl"], 100)
    assert found.followed == 1
    assert list(found) == [
        ("One x", "One y"),
        ("One y", ""),
        ("Two z", ""),
        ("u", ""),
        ("v", ""),
    ]


def test_a_sentence_may_go_over_lines_and_a_passage_over_many():
    lines = ["One two", "three. Four five", "six.", "Seven eight nine. Ten eleven", "twelve."]
    assert list(cut_document(lines, 6)) == [
        "One two three. Four five six.",
        "Seven eight nine. Ten eleven twelve.",
    ]


def test_what_has_no_end_of_a_sentence_is_cut_all_the_same():
    words = [f"w{i}" for i in range(25)]
    lines = [" ".join(words[start : start + 3]) for start in range(0, 25, 3)]
    found = list(cut_document(lines, 5))
    assert [len(passage.split()) for passage in found] == [10, 10, 5]
    assert " ".join(found).split() == words
    assert list(cut_document([" ".join(words)], 5)) == found


def test_passages_are_found_by_place_in_any_order():
    found = Texts([(True, "a é"), (False, "b"), (True, ""), (False, "d")])
    expected = [("a é", "b"), ("b", ""), ("", "d"), ("d", "")]
    assert list(found) == expected and found[-1] == expected[3] and found[1:3] == expected[1:3]
    with pytest.raises(IndexError):
        found[4]
    picked = Picked(found, np.array([3, 0, 1]))
    assert list(picked) == [expected[3], *expected[:2]]
    assert list(picked[1:][:1]) == [expected[0]] and len(picked[5:]) == 0


def test_a_changed_text_has_another_digest():
    same = [(True, "ab"), (False, "c")]
    digest = Texts(same).sha256
    assert Texts(iter(same)).sha256 == digest
    for other in ([(True, "ab"), (True, "c")], [(True, "a"), (False, "bc")], same[:1]):
        assert Texts(other).sha256 != digest


def test_memory_does_not_hold_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "IN_MEMORY", 1 << 16)
    line = "Some words of a long text that nobody reads. " * 20
    with gzip.open(tmp_path / "text.txt.gz", "wt", compresslevel=1) as stream:
        stream.writelines(f"{i} {line}\n" for i in range(6000))  # one document of 5.4 MB
    tracemalloc.start()
    found = read_texts([tmp_path / "text.txt.gz"], 100)
    rest = Picked(found, np.random.default_rng(0).permutation(len(found)))[100:]
    assert sum(len(text.text) for text in rest[:200]) > 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) > 9000 and found.followed == len(found) - 1
    assert peak < 2e6


def test_no_text_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no text"):
        read_texts([tmp_path / "empty.txt"], 100)
