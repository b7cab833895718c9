"""rank_llm's requests and results to and from topics, run and corpus.

A record is ``{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc"}, ...]}``, best first;
``doc`` holds the passage as a corpus file does. Source: the data classes of castorini/rank_llm, a toolkit
that has language models rerank whole lists of candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qpeft_rerank.corpora import Passage, passage_of_record
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import Source, atomic_write
from qpeft_rerank.passages import all_passages
from qpeft_rerank.question_files import (
    Question,
    candidates_of,
    id_field,
    json_line,
    query_of,
    ranking_in_order,
    text_field,
    to_trec_files,
)
from qpeft_rerank.topics import Topics, as_topics
from qpeft_rerank.trec import Run

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passages


def rank_llm_to_trec(source: Source, output_dir: str | Path, tag: str = "rank_llm") -> int:
    """Split requests or results of rank_llm (JSON or JSON lines) into topics.tsv, run.txt and corpus.jsonl.

    Candidates keep their order: with their scores if these agree with it, else with scores made from the
    rank. The corpus has each passage once, as first met. Returns the number of topics. Raises FormatError
    with file and record for a record that has not this form, and with the file for one without a record;
    writes no file then.
    """
    return to_trec_files(source, _question_of, output_dir, tag, ("topics.tsv", "run.txt"))


def _question_of(record: dict[str, Any], number: int) -> Question:
    """A request. InputError says what is wrong in it."""
    query, candidates = record.get("query"), record.get("candidates")
    if not isinstance(query, dict):
        raise InputError("'query' is missing or not an object with text and qid")
    text, qid = text_field(query, "text"), id_field(query, ("qid",))
    if qid is None:
        raise InputError("'qid' of the query is missing")
    if not isinstance(candidates, list) or not all(isinstance(one, dict) for one in candidates):
        raise InputError("'candidates' is missing or not a list of passages")
    found: dict[str, dict] = {}
    passages: dict[str, Passage] = {}
    for candidate in candidates:
        docid, doc = id_field(candidate, ("docid",)), candidate.get("doc")
        if docid is None:
            raise InputError("'docid' of a candidate is missing")
        if docid in found:
            raise InputError(f"candidate {docid!r} comes twice")
        if not isinstance(doc, dict):
            raise InputError(f"'doc' of candidate {docid!r} is missing or not an object")
        try:
            passages[docid] = passage_of_record(docid, doc)
        except ValueError as error:
            raise InputError(f"candidate {docid!r}: {error}") from None
        found[docid] = candidate
    return Question(qid, text, ranking_in_order(qid, found), passages)


def trec_to_rank_llm(
    topics: Topics,
    run: Run,
    passages: Passages,
    target: str | Path | TextIO,
    hits: int = 100,
) -> int:
    """Write requests for rank_llm as JSON lines: the first ``hits`` candidates of each topic of the run.

    A passage's ``doc`` is its ``title``, if it has one, and its ``text``. Returns the number of topics.
    Raises InputError for an empty run, or one with a topic or a topic's document twice, MissingTopicError or
    MissingPassageError for what topics or passages do not have.
    """
    if hits < 1:
        raise InputError(f"hits: {hits} is not at least 1")
    topics, written = as_topics(topics), 0
    with atomic_write(target) as out:
        for qid, scores in candidates_of(run):
            query = {"text": query_of(topics, qid), "qid": qid}
            found = all_passages(passages, docids := list(scores)[:hits], qid)
            candidates = [
                {"docid": docid, "score": scores[docid], "doc": _doc(found[docid])} for docid in docids
            ]
            out.write(json_line({"query": query, "candidates": candidates}))
            written += 1
    return written


def _doc(passage: Passage) -> dict[str, str]:
    return {"title": passage.title, "text": passage.text} if passage.title else {"text": passage.text}
