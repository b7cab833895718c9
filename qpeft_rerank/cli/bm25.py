"""Search topics in a Lucene index with BM25 and write a run:
the same documents, order and scores as Pyserini's own search.
"""

from __future__ import annotations

from dataclasses import dataclass

from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import OutputRunOptions, TopicsOptions
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import check_output


@dataclass(kw_only=True)
class Bm25Options(OutputRunOptions, TopicsOptions):
    """Flags of `qpeft bm25`."""

    index: str | None = option(
        None, "Lucene index: folder, or a Pyserini prebuilt name such as msmarco-v1-passage"
    )
    hits: int = option(100, "passages per topic", least=1)
    k1: float = option(0.9, "BM25: how soon more occurrences of a word stop counting", least=0)
    b: float = option(0.4, "BM25: how much the length of a passage counts, from 0 to 1", least=0, most=1)
    rm3: bool = option(False, "expand topics with RM3 pseudo-relevance feedback")
    remove_query: bool = option(
        False, "leave out the passage whose id is the topic's (ArguAna, Quora: queries are passages)"
    )
    language: str | None = option(
        None, "language of an index that Pyserini built (default: what qpeft index noted, else en)"
    )
    threads: int = option(1, "threads that search", least=1)


def run(options: Bm25Options) -> None:
    """Search and write, topic by topic."""
    from qpeft_rerank.bm25 import search
    from qpeft_rerank.cli.missing import report_empty
    from qpeft_rerank.cli.progress import with_progress
    from qpeft_rerank.trec import write_run

    collection = options.load()
    index = options.index or (collection.required("index") if collection else None)
    if index is None:
        raise InputError("no index given: name it with --index, or a collection file with -c")
    check_output(options.output, options.topics)
    topics = options.read_topics()
    rankings = search(
        index,
        topics,
        hits=options.hits,
        k1=options.k1,
        b=options.b,
        rm3=options.rm3,
        threads=options.threads,
        remove_query=options.remove_query,
        language=options.language,
    )
    shown = with_progress(rankings, "bm25", " topics", len(topics))
    write_run(report_empty(shown), options.output, options.runtag or "bm25")


VERB = Verb(
    __doc__,
    "  qpeft bm25 --index indexes/squad --topics topics.test.tsv --output run.squad.bm25.test.txt",
    Bm25Options,
    run,
)
