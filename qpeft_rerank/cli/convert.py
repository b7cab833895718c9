"""Turn the JSON files of DPR and UPR into topics, qrels, run and corpus, and back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import InputRunOptions, PassageOptions, QrelsOptions, TopicsOptions
from qpeft_rerank.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FromDprOptions:
    """Flags of `qpeft convert dpr`."""

    file: str | None = option(
        None,
        "DPR training JSON, or DPR or UPR retrieval JSON (.gz too); '-': stdin",
        positional=True,
        metavar="FILE",
    )
    output: str | None = option(
        None, "folder for topics.tsv, qrels.txt, run.txt, corpus.jsonl, answers.jsonl", metavar="DIR"
    )
    runtag: str = option("dpr", "last column of the run", metavar="TAG")


def from_dpr(options: FromDprOptions) -> None:
    """DPR -> TREC files."""
    from qpeft_rerank.dpr import dpr_to_trec

    if options.file is None:
        raise InputError("no file given: name a DPR JSON file, or '-' for stdin")
    if options.output is None:
        raise InputError("no folder given: name one with --output")
    count = dpr_to_trec(options.file, options.output, options.runtag)
    _log.info("%s: %s questions", options.output, f"{count:,}")


@dataclass(kw_only=True)
class ToDprOptions(InputRunOptions, PassageOptions, QrelsOptions, TopicsOptions):
    """Flags of `qpeft convert to-dpr`."""

    title: ClassVar[str] = "options"

    output: str = option("-", "JSON file to write (.gz: compressed; default: stdout)", metavar="FILE")
    kind: str = option(
        "training",
        "positive_ctxs and hard_negative_ctxs, or all candidates as ctxs with has_answer",
        choices=("training", "retrieval"),
    )
    answers: str | None = option(None, "answers to put in: JSONL with qid and answers", metavar="FILE.jsonl")


def to_dpr(options: ToDprOptions) -> None:
    """TREC files -> DPR."""
    from qpeft_rerank.dpr import read_answers, trec_to_dpr, trec_to_dpr_retrieval
    from qpeft_rerank.trec import read_qrels, read_run

    source = options.run_source()
    topics, qrels = options.read_topics(), read_qrels(options.qrels_source())
    answers = read_answers(options.answers) if options.answers is not None else None
    write = trec_to_dpr if options.kind == "training" else trec_to_dpr_retrieval
    count = write(topics, read_run(source), qrels, options.open_passages(), options.output, answers)
    _log.info("%s: %s questions", "stdout" if options.output == "-" else options.output, f"{count:,}")


VERBS = {
    "dpr": Verb(
        "DPR or UPR JSON -> topics, qrels, run, corpus and answers.",
        "  qpeft convert dpr nq-train.json --output nq",
        FromDprOptions,
        from_dpr,
    ),
    "to-dpr": Verb(
        "Topics, qrels, run and passages -> DPR JSON.",
        "  qpeft convert to-dpr run.bm25.txt -c squad.toml --split train --output squad-train.json",
        ToDprOptions,
        to_dpr,
    ),
}
