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
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qpeft_rerank.errors import FormatError, InputError, MissingTopicError
from qpeft_rerank.files import Source, atomic_write, read_lines, source_name
from qpeft_rerank.json_records import read_records
from qpeft_rerank.passages import all_passages
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.topics import format_topic
from qpeft_rerank.trec import format_qrels, format_ranking

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passage, Passages

_CTXS_KEYS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs", "ctxs")
_DOCID_KEYS = ("passage_id", "psg_id", "id", "docid")
_QID_KEYS = ("question_id", "qid", "id")
_OUTPUTS = ("topics.tsv", "qrels.txt", "run.txt", "corpus.jsonl", "answers.jsonl")


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
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write to {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    name = source_name(source)
    qids: set[str] = set()
    docids: set[str] = set()
    with ExitStack() as stack:
        topics, qrels, run, corpus, answers = (
            stack.enter_context(atomic_write(folder / output)) for output in _OUTPUTS
        )
        for number, record in read_records(source):
            try:
                question = _Question(record, number)
                if question.qid in qids:
                    raise InputError(f"question id {question.qid!r} comes twice")
                qids.add(question.qid)
                topics.write(format_topic(question.qid, question.text))
                qrels.write(format_qrels(question.qid, question.grades))
                run.write(format_ranking(question.ranking, tag))
                answers.write(_json_line({"qid": question.qid, "answers": question.answers}))
                for docid, (title, text) in question.passages.items():
                    if docid not in docids:
                        docids.add(docid)
                        contents = f"{title}\n{text}" if title else text
                        corpus.write(_json_line({"id": docid, "title": title, "contents": contents}))
            except UnicodeEncodeError:
                raise FormatError(name, None, f"record {number}: half of a surrogate pair") from None
            except InputError as error:
                raise FormatError(name, None, f"record {number}: {error}") from None
        if not qids:
            raise FormatError(name, None, "there is no question in it")
    return len(qids)


class _Question:
    """A record of either form, checked. InputError says what is wrong in it."""

    def __init__(self, record: dict, number: int):
        self.text = _string(record, "question")
        self.qid = _first_id(record, _QID_KEYS) or str(number)
        self.answers = _strings(record, "answers") if "answers" in record else []
        if not any(key in record for key in _CTXS_KEYS):
            raise InputError(f"it has none of: {', '.join(_CTXS_KEYS)}")
        self.passages: dict[str, tuple[str, str]] = {}
        positives, hard_negatives, _, ctxs = (self._read_ctxs(record, key) for key in _CTXS_KEYS)
        self.grades = {docid: 1 for docid in positives}
        for docid, ctx in ctxs.items():
            if "has_answer" in ctx:
                if not isinstance(ctx["has_answer"], bool):
                    raise InputError(f"'has_answer' of passage {docid!r} is not true or false")
                self.grades.setdefault(docid, int(ctx["has_answer"]))
        self.ranking = _ranking(self.qid, ctxs or hard_negatives)

    def _read_ctxs(self, record: dict, key: str) -> dict[str, dict]:
        ctxs = record.get(key, [])
        if not isinstance(ctxs, list) or not all(isinstance(ctx, dict) for ctx in ctxs):
            raise InputError(f"{key!r} is not a list of passages")
        by_id: dict[str, dict] = {}
        for ctx in ctxs:
            title = _string(ctx, "title") if ctx.get("title") else ""
            text = _string(ctx, "text")
            docid = _first_id(ctx, _DOCID_KEYS) or _text_id(title, text)
            self.passages.setdefault(docid, (title, text))
            by_id.setdefault(docid, ctx)
        return by_id


def _string(record: dict, key: str) -> str:
    if not isinstance(record.get(key), str):
        raise InputError(f"{key!r} is missing or not a string")
    return record[key]


def _strings(record: dict, key: str) -> list[str]:
    values = record.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{key!r} is missing or not a list of strings")
    return values


def _first_id(record: dict, keys: Sequence[str]) -> str | None:
    for key in keys:
        value = record.get(key)
        if value not in (None, ""):
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise InputError(f"{key!r} is not a string or an integer")
            if len(str(value).split()) != 1:
                raise InputError(f"{key!r} has white space: {value!r}")
            return str(value)
    return None


def _text_id(title: str, text: str) -> str:
    return hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=12).hexdigest()


def _ranking(qid: str, ctxs: Mapping[str, dict]) -> Ranking:
    scores = [_score(ctx.get("score")) for ctx in ctxs.values()]
    if None in scores or sorted(scores, reverse=True) != scores:
        scores = [float(len(ctxs) - rank) for rank in range(len(ctxs))]
    return Ranking(qid, list(map(ScoredDoc, ctxs, scores)))


def _score(value: Any) -> float | None:
    try:
        score = float(value)  # DPR writes scores as strings
    except (TypeError, ValueError):
        return None
    return score if isfinite(score) else None


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
            if not isinstance(record, dict) or (qid := _first_id(record, ("qid",))) is None:
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
    topics: Mapping[str, str],
    run: Iterable[Ranking],
    qrels: Mapping[str, Mapping[str, int]],
    passages: Passages,
    target: str | Path | TextIO,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write a DPR training file.

    Positives are the passages of grade 1 or more, hard negatives the other ones of the run, in its order.
    Topics of the run without a positive are left out. Returns the number of questions written. Raises
    MissingTopicError or MissingPassageError for what topics or passages do not have.
    """

    def records() -> Iterator[dict]:
        for qid, docs in run:
            positives = {docid: grade for docid, grade in qrels.get(qid, {}).items() if grade >= 1}
            if not positives:
                continue
            scores = dict(docs)
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
    topics: Mapping[str, str],
    run: Iterable[Ranking],
    qrels: Mapping[str, Mapping[str, int]],
    passages: Passages,
    target: str | Path | TextIO,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write a DPR/UPR retrieval file: the run's passages as ``ctxs``, an answer where the grade is 1 or more.

    Returns the number of questions written. Raises as :func:`trec_to_dpr`.
    """

    def records() -> Iterator[dict]:
        for qid, docs in run:
            scores, grades = dict(docs), qrels.get(qid, {})
            found = all_passages(passages, list(scores), qid)
            ctxs = [
                _ctx("id", found[docid], scores) | {"has_answer": grades.get(docid, 0) >= 1}
                for docid in scores
            ]
            yield {**_question(topics, qid, answers), "ctxs": ctxs}

    return _write_array(records(), target)


def _question(topics: Mapping[str, str], qid: str, answers: Mapping | None) -> dict:
    if qid not in topics:
        raise MissingTopicError(qid)
    return {"question_id": qid, "question": topics[qid], "answers": list((answers or {}).get(qid, []))}


def _ctx(id_key: str, passage: Passage, scores: Mapping[str, float]) -> dict:
    ctx = {id_key: passage.docid, "title": passage.title, "text": passage.text}
    # A positive that the run lacks has no score.
    return ctx | {"score": scores[passage.docid]} if passage.docid in scores else ctx


def _write_array(records: Iterable[dict], target: str | Path | TextIO) -> int:
    written = 0
    with atomic_write(target) as out:
        for record in records:
            out.write(("[\n" if written == 0 else ",\n") + _json_line(record).rstrip("\n"))
            written += 1
        out.write("\n]\n" if written else "[]\n")
    return written


def _json_line(record: dict) -> str:
    # Not ASCII only: U+2019 and its like stay readable, as they are.
    return json.dumps(record, ensure_ascii=False) + "\n"
