"""TREC run and qrels files: read strictly, topic by topic; written so that every tool sees the order meant.

A run line is ``qid Q0 docid rank score tag``, or MS MARCO's ``qid docid rank`` (:func:`read_run`). A qrels
line is ``qid 0 docid grade`` (``qid docid grade`` below BEIR's header). Ids are strings: "007" stays "007".
Runs are sorted as trec_eval sorts them: by score as float32, descending, then by docid in byte order,
descending; the rank column and the order of lines say nothing where there are scores.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from itertools import chain, groupby, repeat
from numbers import Real
from operator import attrgetter
from pathlib import Path
from typing import TextIO

import numpy as np

from qpeft_rerank.columns import Block, Stretch, parse_lines, read_blocks
from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import (
    STDOUT,
    Source,
    atomic_write,
    is_regular_file,
    may_be_name,
    open_bytes,
    read_if_source,
    source_name,
    writing,
)
from qpeft_rerank.frames import Frame, qrels_of_frame, run_of_frame
from qpeft_rerank.rankings import Ranking, ScoredDoc, as_ranking, of_dictionary
from qpeft_rerank.run_blocks import COLUMNS, MSMARCO_COLUMNS, parse_block
from qpeft_rerank.run_scores import in_order, shortest_digits, strictly_decreasing
from qpeft_rerank.run_spans import find_spans

_TREC, _MSMARCO = (COLUMNS, "score"), (MSMARCO_COLUMNS, "rank")  # the forms of a run, and what it scores by
_QRELS_COLUMNS = ("qid", "0", "docid", "grade")
_BEIR_HEADER, _BEIR_COLUMNS = b"query-id corpus-id score".split(), ("qid", "docid", "grade")
_WHITE_SPACE = " \t\n\r\v\f\0"  # NUL is no white space, but no reader lives with it


Run = Source | Iterable[Ranking] | Mapping[str, Mapping[str, float] | Ranking] | Frame
"""A run: a file; rankings; topic -> docid -> score, as pytrec_eval has it; topic -> its ranking; or a data
frame of PyTerrier's (`frames`).
"""
Qrels = Source | Mapping[str, Mapping[str, int]] | Frame
"""Qrels: a file or name; topic -> docid -> grade; or a data frame."""


def read_run(source: Source) -> Iterator[Ranking]:
    """Yield the rankings of a run, topic by topic, in the order in which topics first appear.

    Accepts ranks from 0 or 1, tabs, CRLF, blank lines, gzip, lines in any order. If the first line has three
    columns, so must all have: a run as MS MARCO's passage leaderboard takes it, ``qid docid rank`` with ranks
    from 1. Its scores are 1 / rank. The lines of a topic may lie
    apart in a file, which is looked through first for that; in a stream, a topic that returns is an error,
    since it was already yielded. Memory holds one topic at a time.

    Raises InputError for a file that cannot be read and FormatError, with file and line, for a line with
    another number of columns, a score that is no finite number, and a document that a topic has twice.
    """
    name = source_name(source)
    for topic in _read_topics(source):
        yield _ranking(topic, name)


def as_rankings(run: Run, name: str = "the run") -> Iterator[Ranking]:
    """A run as rankings, in whatever form it is given.

    Raises InputError for what is no run; as it is gone through, for what is no ranking (`as_ranking`) and for
    a topic that comes twice: its candidates would be taken for one another's. ``name`` is for messages.
    """
    if isinstance(run, Frame):
        run = run_of_frame(run)
    if isinstance(run, Mapping):
        return (of_dictionary(qid, docs) for qid, docs in run.items())
    return _each_once(read_if_source(run, read_run, Iterable, "run"), name)


def _each_once(rankings: Iterable[Ranking], name: str) -> Iterator[Ranking]:
    seen: set[str] = set()
    for ranking in map(as_ranking, rankings):
        if ranking.qid in seen:
            raise InputError(f"topic {ranking.qid!r} comes twice in {name}")
        seen.add(ranking.qid)
        yield ranking


def read_scores(source: Source) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (qid, docid -> score) by topic: as :func:`read_run`, but unsorted and faster, for evaluation."""
    for topic in _read_topics(source):
        scores = dict(zip(topic.docids, np.asarray(topic.values).tolist()))
        if len(scores) != len(topic.docids):
            _check_unique(topic, source_name(source))
        yield topic.qid, scores


def load_run(source: Source) -> dict[str, Ranking]:
    """Read a whole run into memory: as :func:`read_run`, but a topic may return in a stream, too."""
    name = source_name(source)
    topics: dict[str, list[Stretch]] = {}
    with open_bytes(source, "run file") as stream:
        for stretch in _stretches(read_blocks(stream, name), name):
            topics.setdefault(stretch.qid, []).append(stretch)
    return {qid: _ranking(_joined(topics.pop(qid)), name) for qid in list(topics)}


def format_ranking(ranking: Ranking, tag: str) -> str:
    """The lines of a ranking, in its order: ranks from 1 and scores that decrease strictly as float32.

    A score that is not below the one before is lowered to the next float32 number. Raises InputError for an
    id that is empty or has white space, a document given twice, and a score that float32 cannot hold.
    """
    if not ranking.docs:
        return ""
    docids, scores = zip(*ranking.docs)
    for what, text in (("qid", ranking.qid), ("tag", tag), ("docid", "".join(docids))):
        if not text or any(space in text for space in _WHITE_SPACE):
            raise InputError(f"topic {ranking.qid!r}: a {what} is empty or has white space")
    if not all(docids) or len(set(docids)) != len(docids):
        raise InputError(f"topic {ranking.qid!r}: a docid is empty or comes twice")
    try:
        texts = shortest_digits(strictly_decreasing(scores))
    except ValueError as error:
        raise InputError(f"topic {ranking.qid!r}: {error}") from None
    # Joined from the columns of all lines, without Python code for each line: runs have millions.
    pieces = [f"{ranking.qid} Q0 ", "", " ", "", " ", "", f" {tag}\n"] * len(docids)
    pieces[1::7], pieces[3::7], pieces[5::7] = docids, _ranks(len(docids)), texts
    return "".join(pieces)


@lru_cache(maxsize=4)
def _ranks(count: int) -> list[str]:
    """The rank column; most topics of a run are of one length."""
    return list(map(str, range(1, count + 1)))


def write_run(rankings: Run, target: str | Path | TextIO, tag: str) -> int:
    """Write rankings as a run (:func:`format_ranking`) and return their number.

    The file appears under its name when it is complete; stdout ("-") gets each topic at once, so that pipes
    flow.
    """
    written = 0
    to_file = isinstance(target, (str, Path)) and str(target) not in STDOUT
    with atomic_write(target) as out:
        for ranking in as_rankings(rankings):
            out.write(format_ranking(ranking, tag))
            written += 1
            if not to_file:
                out.flush()
    return written


def read_qrels(source: Source) -> dict[str, dict[str, int]]:
    """Read qrels: qid -> docid -> grade. A string that names no file is taken for a name that Pyserini knows.

    A file that begins with BEIR's header (``query-id corpus-id score``) has three columns, others have four.

    Raises InputError for a file or name that cannot be read and FormatError, with file and line, for a line
    with another number of columns, a grade that is no integer, and a document with two grades for a topic.
    """
    if may_be_name(source):
        from qpeft_rerank.pyserini_names import qrels_by_name

        return qrels_by_name(source)
    name = source_name(source)
    qrels: dict[str, dict[str, int]] = {}
    columns = _QRELS_COLUMNS
    with open_bytes(source, "qrels file") as stream:
        for block in read_blocks(stream, name):
            if block.lines[0] == 1:
                first, _, rest = block.data.partition(b"\n")
                if first.split() == _BEIR_HEADER:
                    columns = _BEIR_COLUMNS
                    block = Block(rest, block.lines[1:], block.offset + len(first) + 1)
            for qid, docids, grades, lines in parse_lines(block, name, columns, "grade"):
                judged = qrels.setdefault(qid, {})
                for docid, grade, line in zip(docids, grades, lines):
                    if judged.get(docid, grade) != grade:
                        raise FormatError(name, line, f"document {docid!r} has two grades for topic {qid!r}")
                    judged[docid] = grade
    return qrels


def as_qrels(qrels: Qrels) -> Mapping[str, Mapping[str, int]]:
    """Qrels as qid -> docid -> grade, whether they are given as a file or name (:func:`read_qrels`), as a
    data frame (`frames`) or so.

    Raises InputError for a grade that is no whole number.
    """
    if isinstance(qrels, Frame):
        qrels = qrels_of_frame(qrels)
    found = read_if_source(qrels, read_qrels, Mapping, "qrels")
    if found is qrels:  # a file's grades were looked at when it was read
        for qid, grades in found.items():
            for docid, grade in grades.items():
                if not isinstance(grade, Real) or grade % 1 != 0:  # NaN and infinity give NaN
                    raise InputError(f"qrels: topic {qid!r}, {docid!r}: {grade!r} is not a whole number")
    return found


def write_qrels(qrels: Qrels, target: str | Path | TextIO) -> None:
    """Write qrels in the order given."""
    judged = as_qrels(qrels)
    with atomic_write(target) as out:
        for qid, grades in judged.items():
            out.write(format_qrels(qid, grades))


def format_qrels(qid: str, grades: Mapping[str, int]) -> str:
    """The qrels lines of one topic. Raises InputError for an id that is empty or has white space."""
    for word in (qid, *grades):
        if not word or any(space in word for space in _WHITE_SPACE):
            raise InputError(f"topic {qid!r}: the id {word!r} is empty or has white space")
    return "".join([f"{qid} 0 {docid} {int(grade)}\n" for docid, grade in grades.items()])


def _read_topics(source: Source) -> Iterator[Stretch]:
    """All lines of each topic, topic by topic."""
    name = source_name(source)
    spans = find_spans(source) if is_regular_file(source) else None
    with ExitStack() as stack:
        stream = stack.enter_context(open_bytes(source, "run file"))
        if spans is None or spans.contiguous:
            blocks = read_blocks(stream, name)
        else:
            if not stream.seekable():
                unzipped = stack.enter_context(tempfile.TemporaryFile())
                with writing(tempfile.gettempdir()):
                    shutil.copyfileobj(stream, unzipped)
                    unzipped.flush()
                stream = unzipped
            blocks = spans.blocks_by_topic(stream)
        seen: set[str] = set()
        for qid, group in groupby(_stretches(blocks, name), key=attrgetter("qid")):
            parts = list(group)
            if qid in seen:
                message = f"topic {qid!r} returns after other topics"
                advice = "sort the run by topic or pass it as a file"
                raise FormatError(name, parts[0].lines[0], f"{message}: {advice}")
            seen.add(qid)
            yield _joined(parts)


def _stretches(blocks: Iterable[Block], name: str) -> Iterator[Stretch]:
    form = None
    for block in blocks:
        if form is None and (first := block.data.lstrip().partition(b"\n")[0].split()):
            form = _MSMARCO if len(first) == len(MSMARCO_COLUMNS) else _TREC
        stretches = parse_block(block, *form or _TREC)
        yield from parse_lines(block, name, *form or _TREC) if stretches is None else stretches


def _joined(parts: list[Stretch]) -> Stretch:
    if len(parts) == 1:
        return parts[0]
    _, docids, scores, lines = zip(*parts)
    return Stretch(
        parts[0].qid, list(chain.from_iterable(docids)), np.concatenate(scores), chain.from_iterable(lines)
    )


def _check_unique(topic: Stretch, name: str) -> None:
    if len(set(topic.docids)) == len(topic.docids):
        return
    seen: set[str] = set()
    for docid, line in zip(topic.docids, topic.lines):
        if docid in seen:
            raise FormatError(name, line, f"topic {topic.qid!r} has document {docid!r} twice")
        seen.add(docid)


def _ranking(topic: Stretch, name: str) -> Ranking:
    _check_unique(topic, name)
    docids, scores = in_order(topic.docids, np.asarray(topic.values))
    # tuple.__new__ makes the pairs without a call of Python code: runs have millions of lines.
    return Ranking(topic.qid, list(map(tuple.__new__, repeat(ScoredDoc), zip(docids, scores))))
