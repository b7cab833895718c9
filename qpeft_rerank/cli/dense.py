"""Search topics in a dense index by the vectors of their queries, and write a run.

The index names the encoder that made it; flags of the encoder are needed only where the model lies elsewhere
now, or for an index of another program.
"""

from __future__ import annotations

from dataclasses import dataclass

from qpeft_rerank.cli.encoder_options import EncoderOptions
from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import OutputRunOptions, TopicsOptions
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import check_output


@dataclass(kw_only=True)
class DenseOptions(OutputRunOptions, EncoderOptions, TopicsOptions):
    """Flags of `qpeft dense`."""

    index: str | None = option(
        None, "folder that qpeft dense-index wrote, or one of Pyserini's", metavar="DIR"
    )
    hits: int = option(100, "passages per topic", least=1)
    remove_query: bool = option(
        False, "leave out the passage whose id is the topic's (ArguAna, Quora: queries are passages)"
    )
    ef_search: int | None = option(
        None, "hnsw: candidates looked at (default: as the index was built)", least=1
    )
    probes: int | None = option(None, "ivf-pq: lists looked at (default: as the index was built)", least=1)
    threads: int = option(1, "threads that search", least=1)


def run(options: DenseOptions) -> None:
    """Search and write, topic by topic."""
    if options.index is None:
        raise InputError("no index given: name the folder of a dense index with --index")
    check_output(options.output, options.topics)

    from qpeft_rerank.cli.missing import report_empty
    from qpeft_rerank.cli.progress import with_progress
    from qpeft_rerank.dense.search import encoder_of, open_dense_index, search_dense, set_effort
    from qpeft_rerank.trec import write_run

    topics = options.read_topics()
    index = open_dense_index(options.index)
    set_effort(index, options.ef_search, options.probes)
    known = encoder_of(index) if index.description or options.model is options.adapter is None else {}
    rankings = search_dense(
        index,
        topics,
        options.open_encoder(**known),
        hits=options.hits,
        threads=options.threads,
        remove_query=options.remove_query,
    )
    shown = with_progress(rankings, "dense", " topics", len(topics))
    write_run(report_empty(shown), options.output, options.runtag or "dense")


VERB = Verb(
    __doc__,
    "  qpeft dense --index indexes/squad.dense --topics topics.test.tsv --output run.squad.dense.test.txt",
    DenseOptions,
    run,
)
