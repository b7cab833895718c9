"""Turn the JSON files of DPR, UPR and rank_llm into topics, qrels, run and corpus, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import (
    InputRunOptions,
    PassageOptions,
    QrelsOptions,
    TopicsOptions,
    check_runtag,
    check_stdin,
)
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import check_output

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

    _convert(options, dpr_to_trec, "DPR")


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

    check_stdin(options, topics=options.topics, qrels=options.qrels)
    source = options.run_source()
    check_output(options.output, source, options.topics, options.qrels, options.corpus, options.answers)
    topics, qrels = options.read_topics(), options.qrels_source()
    answers = read_answers(options.answers) if options.answers is not None else None
    write = trec_to_dpr if options.kind == "training" else trec_to_dpr_retrieval
    count = write(topics, source, qrels, options.open_passages(), options.output, answers)
    _log_written(options.output, count)


@dataclass(kw_only=True)
class FromRankLlmOptions:
    """Flags of `qpeft convert rank-llm`."""

    file: str | None = option(
        None,
        "requests or results of rank_llm, JSON or JSON lines (.gz too); '-': stdin",
        positional=True,
        metavar="FILE",
    )
    output: str | None = option(None, "folder for topics.tsv, run.txt, corpus.jsonl", metavar="DIR")
    runtag: str = option("rank_llm", "last column of the run", metavar="TAG")


def from_rank_llm(options: FromRankLlmOptions) -> None:
    """rank_llm -> TREC files."""
    from qpeft_rerank.rank_llm import rank_llm_to_trec

    _convert(options, rank_llm_to_trec, "rank_llm")


@dataclass(kw_only=True)
class ToRankLlmOptions(InputRunOptions, PassageOptions, TopicsOptions):
    """Flags of `qpeft convert to-rank-llm`."""

    title: ClassVar[str] = "options"

    output: str = option("-", "file of JSON lines to write (default: stdout)", metavar="FILE")
    hits: int = option(100, "candidates of each topic to write", least=1)


def to_rank_llm(options: ToRankLlmOptions) -> None:
    """TREC files -> rank_llm."""
    from qpeft_rerank.rank_llm import trec_to_rank_llm

    check_stdin(options, topics=options.topics)
    source = options.run_source()
    check_output(options.output, source, options.topics, options.corpus)
    passages, topics = options.open_passages(), options.read_topics()
    count = trec_to_rank_llm(topics, source, passages, options.output, options.hits)
    _log_written(options.output, count)


def _convert(
    options: FromDprOptions | FromRankLlmOptions, convert: Callable[[str, str, str], int], form: str
) -> None:
    if options.file is None:
        raise InputError(f"no file given: name a {form} JSON file, or '-' for stdin")
    if options.output is None:
        raise InputError("no folder given: name one with --output")
    check_runtag(options.runtag)
    _log_written(options.output, convert(options.file, options.output, options.runtag))


def _log_written(output: str, count: int) -> None:
    name, plural = "stdout" if output == "-" else output, "" if count == 1 else "s"
    _log.info("%s: %s topic%s", name, f"{count:,}", plural)


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
    "rank-llm": Verb(
        "Requests or results of rank_llm -> topics, run and corpus.",
        "  qpeft convert rank-llm results.jsonl --output reranked",
        FromRankLlmOptions,
        from_rank_llm,
    ),
    "to-rank-llm": Verb(
        "Topics, run and passages -> requests for rank_llm.",
        "  qpeft rerank run.bm25.txt -c squad.toml --adapter adapter |\n"
        "      qpeft convert to-rank-llm -c squad.toml --hits 20 --output requests.jsonl",
        ToRankLlmOptions,
        to_rank_llm,
    ),
}
