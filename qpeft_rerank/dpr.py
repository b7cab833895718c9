"""DPR's JSON files to and from topics, run, qrels and corpus.

Two forms are in use. Training files hold ``question, answers, positive_ctxs, negative_ctxs,
hard_negative_ctxs`` for each question; retrieval files (DPR, UPR) hold ``question, answers, ctxs`` with ``id,
title, text, score, has_answer`` for each passage. Source: Karpukhin et al. 2020, "Dense Passage Retrieval for
Open-Domain Question Answering", and its code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qpeft_rerank.corpora import Passage
from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import Source, atomic_write, read_lines, source_name
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
from qpeft_rerank.trec import Qrels, Run, as_qrels

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passages

_CTXS_KEYS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs", "ctxs")
_DOCID_KEYS = ("passage_id", "psg_id", "id", "docid")
_QID_KEYS = ("question_id", "qid", "id")
_FILES = ("topics.tsv", "qrels.txt", "run.txt", "answers.jsonl")


def dpr_to_trec(source: Source, output_dir: str | Path, tag: str = "dpr") -> int:
    """Split a DPR file into topics.tsv, qrels.txt, run.txt, corpus.jsonl and answers.jsonl.

    * Topics take their id from ``question_id``, ``qid`` or ``id``, else they are numbered from 1.
    * Passages take theirs from ``passage_id``, ``psg_id``, ``id`` or ``docid``, else from a hash of title and
      text. The corpus has each once, as first met: ``id, title, contents`` by line, where contents starts
      with the title, so that an index made of it finds the title's words, too.
    * The run has the hard negatives, or the ``ctxs``, in their order: with their scores if these agree with
      the order, else with scores made from the rank. Random negatives (``negative_ctxs``) are in the corpus
      only.
    * The qrels have the positives with grade 1, and of ``ctxs`` each passage with ``has_answer`` as grade 1
      or 0.

    Records are read one at a time; only the passage ids are held. Raises FormatError with file and record for
    a record that has not this form, and with the file for one without a question; writes no file then.
    Returns the number of questions.
    """
    return to_trec_files(source, _question_of, output_dir, tag, _FILES)


def _question_of(record: dict[str, Any], number: int) -> Question:
    """A record of either form. InputError says what is wrong in it."""
    text = text_field(record, "question")
    qid = id_field(record, _QID_KEYS) or str(number)
    answers = _strings(record, "answers") if "answers" in record else []
    if not any(key in record for key in _CTXS_KEYS):
        raise InputError(f"it has none of: {', '.join(_CTXS_KEYS)}")
    passages: dict[str, Passage] = {}
    positives, hard_negatives, _, ctxs = (_read_ctxs(record, key, passages) for key in _CTXS_KEYS)
    grades = {docid: 1 for docid in positives}
    for docid, ctx in ctxs.items():
        if "has_answer" in ctx:
            if not isinstance(ctx["has_answer"], bool):
                raise InputError(f"'has_answer' of passage {docid!r} is not true or false")
            grades.setdefault(docid, int(ctx["has_answer"]))
    return Question(qid, text, ranking_in_order(qid, ctxs or hard_negatives), passages, grades, answers)


def _read_ctxs(record: dict[str, Any], key: str, passages: dict[str, Passage]) -> dict[str, dict]:
    """The passages under a key by their id; ``passages`` gets the texts of new ones."""
    ctxs = record.get(key, [])
    if not isinstance(ctxs, list) or not all(isinstance(ctx, dict) for ctx in ctxs):
        raise InputError(f"{key!r} is not a list of passages")
    by_id: dict[str, dict] = {}
    for ctx in ctxs:
        title = text_field(ctx, "title") if ctx.get("title") else ""
        text = text_field(ctx, "text")
        docid = id_field(ctx, _DOCID_KEYS) or _text_id(title, text)
        passages.setdefault(docid, Passage(docid, title, text))
        by_id.setdefault(docid, ctx)
    return by_id


def _strings(record: dict[str, Any], key: str) -> list[str]:
    values = record.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{key!r} is missing or not a list of strings")
    return values


def _text_id(title: str, text: str) -> str:
    return hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=12).hexdigest()


def read_answers(source: Source) -> dict[str, list[str]]:
    """Read what `dpr_to_trec` writes to answers.jsonl: ``qid`` and ``answers`` by line, as qid -> answers.

    Raises FormatError, with file and line, for a line that has not this form and a qid that comes twice.
    """
    name = source_name(source)
    answers: dict[str, list[str]] = {}
    for number, line in read_lines(source, "answers file"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or (qid := id_field(record, ("qid",))) is None:
                raise InputError("expected a JSON object with qid and answers")
            if qid in answers:
                raise InputError(f"qid {qid!r} comes twice")
            answers[qid] = _strings(record, "answers")
        except (ValueError, RecursionError):  # not JSON
            raise FormatError(name, number, "expected a JSON object with qid and answers") from None
        except InputError as error:
            raise FormatError(name, number, str(error)) from None
    return answers


def trec_to_dpr(
    topics: Topics,
    run: Run,
    qrels: Qrels,
    passages: Passages,
    target: str | Path | TextIO,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write a DPR training file.

    Positives are the passages of grade 1 or more, hard negatives the other ones of the run, in its order.
    Topics of the run without a positive are left out. Returns the number of questions written. Raises
    InputError for an empty run, MissingTopicError or MissingPassageError for what topics or passages do not
    have.
    """
    topics, qrels = as_topics(topics), as_qrels(qrels)

    def records() -> Iterator[dict]:
        for qid, scores in candidates_of(run):
            positives = {docid: grade for docid, grade in qrels.get(qid, {}).items() if grade >= 1}
            if not positives:
                continue
            negatives = [docid for docid in scores if docid not in positives]
            found = all_passages(passages, [*positives, *negatives], qid)
            yield {
                **_question(topics, qid, answers),
                "positive_ctxs": [_ctx("passage_id", found[docid], scores) for docid in positives],
                "negative_ctxs": [],
                "hard_negative_ctxs": [_ctx("passage_id", found[docid], scores) for docid in negatives],
            }

    return _write_array(records(), target)


def trec_to_dpr_retrieval(
    topics: Topics,
    run: Run,
    qrels: Qrels,
    passages: Passages,
    target: str | Path | TextIO,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write a DPR/UPR retrieval file: the run's passages as ``ctxs``, an answer where the grade is 1 or more.

    Returns the number of questions written. Raises as :func:`trec_to_dpr`.
    """
    topics, qrels = as_topics(topics), as_qrels(qrels)

    def records() -> Iterator[dict]:
        for qid, scores in candidates_of(run):
            grades = qrels.get(qid, {})
            found = all_passages(passages, list(scores), qid)
            ctxs = [
                _ctx("id", found[docid], scores) | {"has_answer": grades.get(docid, 0) >= 1}
                for docid in scores
            ]
            yield {**_question(topics, qid, answers), "ctxs": ctxs}

    return _write_array(records(), target)


def _question(topics: Mapping[str, str], qid: str, answers: Mapping | None) -> dict:
    question = query_of(topics, qid)
    return {"question_id": qid, "question": question, "answers": list((answers or {}).get(qid, []))}


def _ctx(id_key: str, passage: Passage, scores: Mapping[str, float]) -> dict:
    ctx = {id_key: passage.docid, "title": passage.title, "text": passage.text}
    # A positive that the run lacks has no score.
    return ctx | {"score": scores[passage.docid]} if passage.docid in scores else ctx


def _write_array(records: Iterable[dict], target: str | Path | TextIO) -> int:
    written = 0
    with atomic_write(target) as out:
        for record in records:
            out.write(("[\n" if written == 0 else ",\n") + json_line(record).rstrip("\n"))
            written += 1
        out.write("\n]\n" if written else "[]\n")
    return written
