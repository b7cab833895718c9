"""Files of questions with their passages, one record at a time, to topics, run and corpus.

The forms themselves, DPR's and rank_llm's, are in `dpr` and `rank_llm`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from qpeft_rerank.corpora import Passage, contents_of
from qpeft_rerank.errors import FormatError, InputError, MissingTopicError
from qpeft_rerank.files import Source, atomic_write, is_regular_file, source_name, start_of_message
from qpeft_rerank.json_records import read_records
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.topics import format_topic
from qpeft_rerank.trec import Run, as_rankings, format_qrels, format_ranking


@dataclass(frozen=True)
class Question:
    """A record: a topic with its candidates, their texts by id, and what a form knows besides."""

    qid: str
    text: str
    ranking: Ranking
    passages: Mapping[str, Passage]
    grades: Mapping[str, int] = field(default_factory=dict)
    answers: Sequence[str] = ()


# File -> what it has of a question; the corpus has each passage once, and is written apart from these.
_LINES: dict[str, Callable[[Question, str], str]] = {
    "topics.tsv": lambda question, tag: format_topic(question.qid, question.text),
    "qrels.txt": lambda question, tag: format_qrels(question.qid, question.grades),
    "run.txt": lambda question, tag: format_ranking(question.ranking, tag),
    "answers.jsonl": lambda question, tag: json_line({"qid": question.qid, "answers": question.answers}),
}


def to_trec_files(
    source: Source,
    parse: Callable[[dict[str, Any], int], Question],
    output_dir: str | Path,
    tag: str,
    files: Sequence[str],
) -> int:
    """Write ``corpus.jsonl`` and those of ``files`` (names out of `_LINES`) from a file of questions.

    Args:
        parse: a record with its number from 1 to a question; raises InputError for what is wrong in it.

    Returns:
        The number of questions.

    Raises:
        InputError: ``output_dir`` is no folder, or the source is one of the files to write.
        FormatError: with file and record, or with the file if it has no question or no passage. No file is
            written then.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write to {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / file for file in (*files, "corpus.jsonl")):
        if is_regular_file(source) and path.exists() and path.samefile(source):
            raise InputError(f"{path}: is the input: write to another folder")
    name = source_name(source)
    qids: set[str] = set()
    docids: set[str] = set()
    with ExitStack() as stack:
        outputs = {file: stack.enter_context(atomic_write(folder / file)) for file in files}
        corpus = stack.enter_context(atomic_write(folder / "corpus.jsonl"))
        for number, record in read_records(source):
            try:
                question = parse(record, number)
                if question.qid in qids:
                    raise InputError(f"question id {question.qid!r} comes twice")
                qids.add(question.qid)
                for file, output in outputs.items():
                    output.write(_LINES[file](question, tag))
                for docid, passage in question.passages.items():
                    if docid not in docids:
                        docids.add(docid)
                        contents = contents_of(passage)
                        corpus.write(json_line({"id": docid, "title": passage.title, "contents": contents}))
            except UnicodeEncodeError:
                raise FormatError(name, None, f"record {number}: half of a surrogate pair") from None
            except InputError as error:
                raise FormatError(name, None, f"record {number}: {error}") from None
        if not qids:
            raise FormatError(name, None, "there is no question in it")
        if not docids:
            raise FormatError(name, None, "no question has a passage")
    return len(qids)


def candidates_of(run: Run) -> Iterator[tuple[str, dict[str, float]]]:
    """Topics and their candidates, docid -> score in the run's order, of a run that is to become such a file.

    InputError for an empty run, a topic that returns, a document that a topic has twice.
    """
    empty = True
    for qid, docs in as_rankings(run):
        empty = False
        scores = {docid: float(score) for docid, score in docs}
        if len(scores) != len(docs):
            raise InputError(f"topic {qid!r} has a document twice")
        yield qid, scores
    if empty:
        raise InputError(f"{start_of_message(run)}the run is empty: there is nothing to convert")


def query_of(topics: Mapping[str, str], qid: str) -> str:
    """The text of a topic. MissingTopicError if there is none."""
    if not topics.get(qid, "").strip():
        raise MissingTopicError(qid, blank=qid in topics)
    return topics[qid]


def text_field(record: Mapping[str, Any], key: str) -> str:
    """The text under a key. InputError if there is none."""
    if not isinstance(record.get(key), str):
        raise InputError(f"{key!r} is missing or not a string")
    return record[key]


def id_field(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The id under the first key that has one, as text. InputError for what is no id of a run."""
    for key in keys:
        value = record.get(key)
        if value not in (None, ""):
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise InputError(f"{key!r} is not a string or an integer")
            if len(str(value).split()) != 1:
                raise InputError(f"{key!r} has white space: {value!r}")
            return str(value)
    return None


def ranking_in_order(qid: str, candidates: Mapping[str, Mapping[str, Any]]) -> Ranking:
    """The candidates in their order: with their scores (``score``) if these agree with it, else with scores
    made from the rank.
    """
    scores = [_score(candidate.get("score")) for candidate in candidates.values()]
    if None in scores or sorted(scores, reverse=True) != scores:
        scores = [float(len(candidates) - rank) for rank in range(len(candidates))]
    return Ranking(qid, list(map(ScoredDoc, candidates, scores)))


def _score(value: Any) -> float | None:
    try:
        score = float(value)  # DPR writes scores as strings
    except (TypeError, ValueError, OverflowError):
        return None
    return score if isfinite(score) else None


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON; not ASCII only: U+2019 and its like stay readable, as they are."""
    return json.dumps(record, ensure_ascii=False) + "\n"
