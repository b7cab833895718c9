"""Reranking to a file that a kill does not undo: topics are kept as they are scored; with a record beside it.

from qpeft_rerank import Reranker, open_passages, rerank_to_file
reranker = Reranker.from_adapter("my-adapter")
passages = open_passages(corpus="corpus.jsonl")
rerank_to_file("run.bm25.txt", "topics.tsv", passages, reranker, "run.reranked.txt", resume=True)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import InputError, QpeftError
from qpeft_rerank.files import content_sha256, is_source, source_name
from qpeft_rerank.passages import Passages
from qpeft_rerank.rankings import Ranking
from qpeft_rerank.reranker import PairScorer, Progress
from qpeft_rerank.reranking import check_arguments, plan_window, rerank
from qpeft_rerank.resume import check_resumable, unfinished_window, write_resumably
from qpeft_rerank.topics import Topics, as_topics
from qpeft_rerank.trec import Run, as_rankings


def rerank_to_file(
    rankings: Run,
    topics: Topics,
    passages: Passages,
    scorer: PairScorer,
    output: str | Path,
    depth: int = 100,
    missing: str = "error",
    on_missing: Callable[[QpeftError], None] | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    weight: float | None = None,
    tag: str = "reranked",
    resume: bool = False,
    on_resumed: Callable[[int], None] | None = None,
    settings: Mapping[str, Any] | None = None,
    circumstances: Mapping[str, Any] | None = None,
) -> int:
    """Rerank a run, and write it to ``output``, each topic as soon as it is there.

    Args:
        rankings, topics, passages, scorer, depth, missing, on_missing, progress, window, weight: as for
            `reranking.rerank`.
        output, tag, on_resumed: as for `resume.write_resumably`.
        resume: go on where a killed run stopped; a finished one is left as it is. Depth, model, passages and
            so on must be the same, whatever they are called; ``missing`` may become ``skip``, and of the run
            and the topics what is finished must be the same. The scorer must have ``describe``
            (`PairScorer`), or ``settings`` say which one it is.
        settings: what else the scores depend on, JSON-ready.
        circumstances: what else the record is to say.

    Returns:
        The number of topics in the file.

    Raises:
        InputError: what is there is of other input or settings, or is not to be resumed; ``output`` cannot be
            written, or is an input; and as `reranking.rerank`, with all topics kept that were finished.
    """
    weight = getattr(scorer, "weight", 1.0) if weight is None else weight
    check_arguments(passages, depth, missing, window, weight)
    check_resumable(output, rankings, topics, passages.name)
    queries = as_topics(topics)
    found = {"topics_sha256": hashlib.sha256(json.dumps(dict(queries)).encode()).hexdigest()}
    if is_source(rankings):
        found |= {"run": source_name(rankings), "run_sha256": content_sha256(rankings)}
    described = scorer.describe() if hasattr(scorer, "describe") else {}
    if resume and not (described or settings):
        raise InputError(
            "resume: the scorer has no describe() to tell it from another one: name it in settings"
        )
    run, together = as_rankings(rankings), window or (unfinished_window(output) if resume else None)
    if together is None:
        together, run = plan_window(run, depth, scorer, passages)

    def stage(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
        return rerank(
            rankings,
            queries,
            passages,
            scorer,
            depth=depth,
            missing=missing,
            on_missing=on_missing,
            progress=progress,
            window=together,
            weight=weight,
        )

    return write_resumably(
        run,
        stage,
        output,
        tag,
        {
            **(settings or {}),
            **described,
            "passages": passages.name,
            "passages_fingerprint": getattr(passages, "fingerprint", None),
            "depth": depth,
            "missing": missing,
            "weight": weight,
            "runtag": tag,
            "window": window,
        },
        window=together,
        resume=resume,
        on_resumed=on_resumed,
        circumstances={**found, **(circumstances or {})},
        queries=queries,
        stricter={"missing": "error"},  # what was finished lacked nothing
    )
