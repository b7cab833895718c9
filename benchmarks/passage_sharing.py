"""Benchmark 3: pairs per second with and without running a passage once for all topics that have it.

Both ways score the same windows of topics of one run, as `qpeft rerank` forms them; without grouping, each
pair is run by itself, prompt and all, in the same length-sorted batches. Without a run, the packaged
collection's passages are all candidates of all its test topics.

    python benchmarks/passage_sharing.py --run run.bm25.txt --collection squad.toml --split test
    python benchmarks/passage_sharing.py --topics 8 --depth 20 --repeats 3
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from candidates import COLLECTION, Pairs, corpus_passages, run_pairs
from random_models import DEMO, METHODS, NAMES, random_base, random_reranker
from side_by_side import arguments, median, ratio, report, time_in_turn, use_threads

from qpeft_rerank.collection import load_collection
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.topics import read_topics


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "passage_sharing", repeats=3)
    parser.add_argument("--model", choices=NAMES, default=DEMO)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["hard-prompt", "qpeft-r", "qpeft-a"]
    )
    parser.add_argument("--run", type=Path, help="score this run's candidates")
    parser.add_argument("--collection", type=Path, help="the run's collection file")
    parser.add_argument("--split", default="test")
    parser.add_argument("--topics", type=int, default=10_000, help="topics, from the run's first on")
    parser.add_argument("--depth", type=int, default=100, help="candidates of each topic")
    parser.add_argument(
        "--alone-every", type=int, default=1, help="run only every so many pairs by themselves"
    )
    options = parser.parse_args()
    if (options.run is None) != (options.collection is None):
        parser.error("--run and --collection go together")
    use_threads(options)
    if options.run is None:
        pairs = demo_pairs(options.topics, options.depth)
    else:
        pairs = run_pairs(options.run, options.collection, options.split, options.topics, options.depth)
    base = random_base(options.model, options.dtype)
    rows = []
    for method in options.methods:
        shared, alone = (random_reranker(base, method) for _ in range(2))
        alone.scorer.can_share = alone.scorer.can_go_on = False
        some = pairs[:: options.alone_every]
        seconds = time_in_turn(
            {
                "shared": lambda shared=shared: score_windows(shared, pairs, shared.shared_pairs),
                "alone": lambda alone=alone, some=some, size=shared.shared_pairs: score_windows(
                    alone, some, size
                ),
            },
            options.repeats,
            warm_up=False,  # minutes of scoring need none
        )
        rows.append(row(method, pairs, len(some), seconds))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "seconds"), flush=True)
    report("Passages shared by topics", rows, options)


def demo_pairs(topics: int, depth: int) -> Pairs:
    """The packaged test topics, each with the first ``depth`` passages of the collection."""
    questions = read_topics(load_collection(COLLECTION).topics_of("test")).values()
    return [(query, passage) for query in islice(questions, topics) for passage in corpus_passages()[:depth]]


def score_windows(reranker: Reranker, pairs: Pairs, window: int) -> None:
    """Score the pairs a window at a time."""
    for start in range(0, len(pairs), window):
        reranker.score(pairs[start : start + window])


def row(method: str, pairs: Pairs, by_themselves: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """What was seen of one method; ``by_themselves``: the number of pairs that were run so."""
    shared, alone = len(pairs) / median(seconds["shared"]), by_themselves / median(seconds["alone"])
    return {
        "method": method,
        "pairs": len(pairs),
        "pairs alone": by_themselves,
        "different passages": len({passage.docid for _, passage in pairs}),
        "pairs/s shared": round(shared, 1),
        "pairs/s alone": round(alone, 1),
        "times": ratio(shared, alone),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
