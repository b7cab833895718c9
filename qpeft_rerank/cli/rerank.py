"""Reorder the first passages of each topic of a run by how likely a language model finds the query.

With --adapter, an adapter that `qpeft train` made (its folder names method and base model). With --model
alone, the plain model: method hard-prompt. Passages below the depth keep their order below the others.

A passage's score is that of the model and that of the run in one: the weighted sum of their z-scores over the
passages of the topic. --weight 1 ranks by the model alone, and writes its log-likelihoods.

With --document-window, long texts are cut to overlapping windows, and a text's score comes from theirs.

With --output, topics are kept as they are scored: after a kill, the same command with --resume goes on where
it stopped.

With --processes, so many processes score, each with the model on a GPU of its own (or a share of the CPU).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from qpeft_rerank.cli.document_options import DocumentOptions
from qpeft_rerank.cli.missing import Missing
from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.scorer_options import ScorerOptions
from qpeft_rerank.cli.shared_options import (
    InputRunOptions,
    OutputRunOptions,
    PassageOptions,
    TopicsOptions,
    check_stdin,
)
from qpeft_rerank.errors import InputError, MissingTopicError
from qpeft_rerank.files import STDOUT, content_sha256
from qpeft_rerank.models.config import UNTRAINED_WEIGHT
from qpeft_rerank.settings import MISSING

if TYPE_CHECKING:
    from qpeft_rerank.rankings import Ranking
    from qpeft_rerank.reranker import Reranker
    from qpeft_rerank.workers import Workers

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RerankOptions(
    InputRunOptions,
    OutputRunOptions,
    ScorerOptions,
    DocumentOptions,
    PassageOptions,
    TopicsOptions,
):
    """Flags of `qpeft rerank`."""

    depth: int = option(100, "passages of each topic that are scored", least=1)
    weight: float | None = option(
        None,
        "the model's share in a score, 0 to 1; the run's score has the rest, 1 is the model alone "
        "(default: what the adapter's training chose on development topics; 1 for a published RankLLaMA; "
        f"else {UNTRAINED_WEIGHT})",
        least=0,
    )
    missing: str = option(
        "error",
        "what to do if a topic or passage has no text: stop, or go on and report",
        choices=MISSING,
    )
    resume: bool = option(
        False,
        "go on with an unfinished --output; --missing skip may be added, and what is not finished yet of the "
        "run and the topics may be mended",
    )
    window: int | None = option(
        None,
        "topics scored together (default: of about 800 pairs; more where topics share passages)",
        least=1,
    )
    batch_tokens: int | None = option(None, "tokens in a batch (default: what fits the device)", least=1)
    batch_size: int | None = option(None, "most pairs in a batch (default: no limit but the tokens)", least=1)
    processes: int = option(
        1, "processes that score, each on a GPU of its own; on a CPU they share the threads", least=1
    )

    def check(self) -> None:
        """Raise `InputError` for flags that do not go together."""
        self.check_scorer()
        if self.weight is not None and self.weight > 1:
            raise InputError(f"--weight: {self.weight} is not between 0 and 1")
        if self.processes > 1 and self.device_map is not None:
            raise InputError("--processes and --device-map: each process has the whole model on one device")
        check_stdin(self, topics=self.topics)
        if self.resume and self.output in STDOUT:
            raise InputError("--resume needs --output: what went to stdout cannot be continued")
        self.check_documents()

    def load_reranker(self) -> AbstractContextManager[Reranker | Workers]:
        """The model, with its adapter if there is one, in this process or in several."""
        options = self.base_options()
        limits = {"batch_tokens": self.batch_tokens, "batch_size": self.batch_size}
        if self.processes == 1:
            return nullcontext(self.loader(options, **limits)())
        from qpeft_rerank.workers import Workers

        device = options.pop("device", None)
        return Workers(self.loader(options, **limits), self.processes, device)


def run(options: RerankOptions) -> None:
    """Rerank and write."""
    options.check()
    source = options.run_source()
    from qpeft_rerank.resume import check_resumable

    check_resumable(options.output, source, options.topics, options.corpus)
    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.file_reranking import rerank_to_file
    from qpeft_rerank.reranking import rerank
    from qpeft_rerank.trec import read_run, write_run

    topics = options.read_topics()
    # Before the model is loaded, which may take minutes: is there anything to rerank, and a text for it?
    rankings = read_run(source)
    if options.missing == "skip":
        rankings = _with_a_topic(rankings, topics)
    first = next(rankings, None)
    if first is None:
        raise InputError("the run is empty: there is nothing to rerank")
    if options.missing == "error" and not topics.get(first.qid, "").strip():  # another split's, most likely
        raise MissingTopicError(first.qid, blank=first.qid in topics)
    passages = options.open_passages()
    missing = Missing(
        "skipped %d topics, which stay as they were, and %d candidates, which go below the others"
    )
    with options.load_reranker() as reranker, progress_bar("rerank", " pairs") as bar:
        weight = reranker.weight if options.weight is None else options.weight
        tag = options.runtag or reranker.describe()["settings"]["method"]

        def expect(done: int = 0) -> None:
            bar.total = _pairs(source, options.depth, done)

        expect()
        given = (chain([first], rankings), topics, passages, options.by_windows(reranker))
        how = {
            "depth": options.depth,
            "missing": options.missing,
            "on_missing": missing.add,
            "progress": bar.update,
            "window": options.window,
            "weight": weight,
        }
        if options.output in STDOUT or (Path(options.output).exists() and not Path(options.output).is_file()):
            write_run(rerank(*given, **how), options.output, tag)
        else:
            rerank_to_file(
                *given,
                options.output,
                **how,
                tag=tag,
                resume=options.resume,
                on_resumed=expect,
                settings={
                    "adapter": options.adapter,
                    "batch_tokens": options.batch_tokens,
                    "batch_size": options.batch_size,
                },
                circumstances={
                    "run": source,
                    "run_sha256": content_sha256(source),
                    "topics_file": options.topics,
                    "collection": options.collection,
                    "split": options.split,
                    "processes": options.processes,
                },
            )
    missing.report()
    _log.info("weights: the model %.3g, the run's own scores %.3g", weight, 1 - weight)


def _with_a_topic(rankings: Iterator[Ranking], topics: Mapping[str, str]) -> Iterator[Ranking]:
    """The rankings. Raises `InputError` where none is of a topic with text: then the topics are others.

    Those before the first such topic are held back, so that nothing is written of a run that has none.
    """
    held: list[Ranking] = []
    for ranking in rankings:
        held.append(ranking)
        if topics.get(ranking.qid, "").strip():
            yield from held
            yield from rankings
            return
    if held:
        raise InputError(
            f"not one topic of the run has a text in the topics (the first is {held[0].qid!r}): "
            "are they of another split?"
        )


def _pairs(source: str, depth: int, skipped_topics: int) -> int | None:
    """Pairs that will be scored, None where the run comes through a pipe.

    Reading is quick next to scoring.
    """
    from qpeft_rerank.files import is_regular_file
    from qpeft_rerank.trec import read_run

    if not is_regular_file(source):
        return None
    return sum(min(depth, len(ranking.docs)) for ranking in islice(read_run(source), skipped_topics, None))


VERB = Verb(
    __doc__,
    "  qpeft rerank run.bm25.txt -c squad.toml --adapter adapter --output run.qpeft-a.txt\n"
    "  qpeft bm25 -c squad.toml | qpeft rerank -c squad.toml --model demo --method hard-prompt > run.txt\n"
    "  qpeft rerank run.bm25.txt -c squad.toml --adapter adapter --processes 4 --output run.qpeft-a.txt",
    RerankOptions,
    run,
)
