"""rank_llm's requests and results go to TREC files and come back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpeft_rerank.errors import FormatError, InputError, MissingPassageError, MissingTopicError
from qpeft_rerank.passages import open_passages
from qpeft_rerank.rank_llm import rank_llm_to_trec, trec_to_rank_llm
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import load_run


def candidate(docid: str | int, score: float, **doc: str) -> dict[str, Any]:
    return {"docid": docid, "score": score, "doc": doc}


RECORDS = [
    {
        "query": {"text": "who’s first", "qid": "007"},
        "candidates": [
            candidate("d2", 9.5, title="Two", text="It’s text 2"),
            candidate("d1", 9.25, text="Text 1"),
            candidate("d3", 1.5, text="Text 3"),
        ],
    },
    {"query": {"text": "second", "qid": "q2"}, "candidates": [candidate("d1", 3.0, text="Text 1")]},
]


def convert(tmp_path: Path, records: list[Any], lines: bool = True) -> int:
    source = tmp_path / ("requests.jsonl" if lines else "requests.json")
    text = "".join(json.dumps(r) + "\n" for r in records) if lines else json.dumps(records, indent=2)
    source.write_text(text, encoding="utf-8")
    return rank_llm_to_trec(source, tmp_path / "trec")


@pytest.mark.parametrize("lines", [True, False], ids=["jsonl", "json"])
def test_requests_become_topics_run_and_corpus_and_come_back(tmp_path: Path, lines: bool) -> None:
    assert convert(tmp_path, RECORDS, lines) == 2
    folder = tmp_path / "trec"
    assert sorted(p.name for p in folder.iterdir()) == ["corpus.jsonl", "run.txt", "topics.tsv"]
    assert read_topics(folder / "topics.tsv") == {"007": "who’s first", "q2": "second"}
    assert load_run(folder / "run.txt")["007"].docs == [("d2", 9.5), ("d1", 9.25), ("d3", 1.5)]
    out = tmp_path / "back.jsonl"
    passages = open_passages(corpus=folder / "corpus.jsonl")
    assert trec_to_rank_llm(folder / "topics.tsv", folder / "run.txt", passages, out) == 2
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == RECORDS
    assert "’" in out.read_text(encoding="utf-8")


def test_the_order_of_results_wins_over_their_scores(tmp_path: Path) -> None:
    results = [{**RECORDS[0], "candidates": RECORDS[0]["candidates"][::-1]}]
    convert(tmp_path, results)
    assert load_run(tmp_path / "trec" / "run.txt")["007"].docs == [("d3", 3.0), ("d1", 2.0), ("d2", 1.0)]


def test_results_with_more_fields_and_integer_ids_are_read(tmp_path: Path) -> None:
    result = {
        "query": {"text": "first", "qid": 7},
        "candidates": [candidate(12, 1.0, contents="Title\nText", title="Title")],
        "invocations_history": [{"prompt": "rank these"}],
    }
    convert(tmp_path, [result])
    assert load_run(tmp_path / "trec" / "run.txt")["7"].docs == [("12", 1.0)]
    record = json.loads((tmp_path / "trec" / "corpus.jsonl").read_text(encoding="utf-8"))
    assert record == {"id": "12", "title": "Title", "contents": "Title\nText"}


def test_a_score_beyond_all_floats_is_made_from_the_rank_and_an_id_may_be_0(tmp_path: Path) -> None:
    record = {"query": {"text": "first", "qid": 0}, "candidates": [candidate(0, 10**400, content="Text")]}
    convert(tmp_path, [record])
    assert load_run(tmp_path / "trec" / "run.txt")["0"].docs == [("0", 1.0)]


def test_the_tag_is_the_last_column(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text(json.dumps(RECORDS[1]))
    rank_llm_to_trec(tmp_path / "requests.jsonl", tmp_path / "trec", tag="mine")
    assert (tmp_path / "trec" / "run.txt").read_text() == "q2 Q0 d1 1 3.0 mine\n"


def test_candidates_are_written_in_the_order_of_the_ranking_with_plain_scores(tmp_path: Path) -> None:
    convert(tmp_path, RECORDS)
    passages, out = open_passages(corpus=tmp_path / "trec" / "corpus.jsonl"), io.StringIO()
    ranking = Ranking("q", [ScoredDoc("d1", 1), ScoredDoc("d2", np.float32(2.5))])
    trec_to_rank_llm({"q": "text"}, [ranking], passages, out)
    found = [(c["docid"], c["score"]) for c in json.loads(out.getvalue())["candidates"]]
    assert found == [("d1", 1.0), ("d2", 2.5)] and '"score": 1.0' in out.getvalue()


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    convert(tmp_path, RECORDS)
    requests = tmp_path / "trec" / "topics.tsv"
    requests.write_text(json.dumps(RECORDS[0]))
    with pytest.raises(InputError, match="trec/topics.tsv: is the input: write to another folder"):
        rank_llm_to_trec(requests, tmp_path / "trec")
    assert json.loads(requests.read_text()) == RECORDS[0]


def test_only_the_first_hits_are_written(tmp_path: Path) -> None:
    convert(tmp_path, RECORDS)
    folder, out = tmp_path / "trec", io.StringIO()
    passages = open_passages(corpus=folder / "corpus.jsonl")
    trec_to_rank_llm(folder / "topics.tsv", folder / "run.txt", passages, out, hits=1)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [[c["docid"] for c in record["candidates"]] for record in records] == [["d2"], ["d1"]]
    with pytest.raises(InputError, match="hits: 0 is not at least 1"):
        trec_to_rank_llm(folder / "topics.tsv", folder / "run.txt", passages, out, hits=0)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    convert(tmp_path, RECORDS)
    passages = open_passages(corpus=tmp_path / "trec" / "corpus.jsonl")
    with pytest.raises(MissingTopicError, match="'q3'"):
        trec_to_rank_llm({"007": "first"}, {"q3": {"d1": 1.0}}, passages, io.StringIO())
    with pytest.raises(MissingPassageError, match="passage 'd9' .candidate of topic '007'. is not in"):
        trec_to_rank_llm({"007": "first"}, {"007": {"d9": 1.0}}, passages, io.StringIO())
    with pytest.raises(MissingTopicError, match="topic 'q1' of the run has no text"):
        trec_to_rank_llm({"q1": " "}, {"q1": {"d1": 1.0}}, passages, io.StringIO())
    docs = [("d1", 2.0), ("d1", 1.0)]
    with pytest.raises(InputError, match="topic '007' has a document twice"):
        trec_to_rank_llm({"007": "first"}, [("007", docs)], passages, io.StringIO())
    with pytest.raises(InputError, match="topic '007' comes twice in the run"):
        trec_to_rank_llm({"007": "first"}, [("007", docs[:1])] * 2, passages, io.StringIO())
    with pytest.raises(InputError, match="the run is empty: there is nothing to convert"):
        trec_to_rank_llm({"007": "first"}, {}, passages, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    "record, message",
    [
        ({"candidates": []}, "'query' is missing or not an object with text and qid"),
        ({"query": {"qid": "1"}, "candidates": []}, "'text' is missing or not a string"),
        ({"query": {"text": "x"}, "candidates": []}, "'qid' of the query is missing"),
        ({"query": {"text": "x", "qid": "1 2"}, "candidates": []}, "'qid' has white space"),
        ({"query": {"text": "x", "qid": True}, "candidates": []}, "'qid' is not a string or an integer"),
        ({"query": {"text": "x", "qid": "1"}}, "'candidates' is missing or not a list of passages"),
        (
            {"query": {"text": "x", "qid": "1"}, "candidates": [{"doc": {}}]},
            "'docid' of a candidate is missing",
        ),
        (
            {"query": {"text": "x", "qid": "1"}, "candidates": [{"docid": "d", "doc": "text"}]},
            "'doc' of candidate 'd' is missing or not an object",
        ),
        (
            {"query": {"text": "x", "qid": "1"}, "candidates": [candidate("d", 1.0, other="x")]},
            "candidate 'd': the record of 'd' has no text",
        ),
        (
            {"query": {"text": "x", "qid": "1"}, "candidates": [candidate("d", 1.0, text="x")] * 2},
            "candidate 'd' comes twice",
        ),
        (RECORDS[1], "question id 'q2' comes twice"),
    ],
)
def test_a_wrong_record_is_named_and_nothing_is_written(tmp_path: Path, record: dict, message: str) -> None:
    with pytest.raises(FormatError, match=f"requests.jsonl: record 3: {message}"):
        convert(tmp_path, [*RECORDS, record])
    assert list((tmp_path / "trec").iterdir()) == []


def test_questions_without_any_passage_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="requests.jsonl: no question has a passage"):
        convert(tmp_path, [{"query": {"text": "x", "qid": "1"}, "candidates": []}])
    assert list((tmp_path / "trec").iterdir()) == []
