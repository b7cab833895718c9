"""Build a Faiss index from the vectors of `qpeft encode`; Pyserini's FaissSearcher opens the folder too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from qpeft_rerank.cli.options import Verb, configuration, option
from qpeft_rerank.dense.index import DenseIndexConfig
from qpeft_rerank.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DenseIndexOptions:
    """Flags of `qpeft dense-index`."""

    vectors: str | None = option(None, "folder that qpeft encode wrote", metavar="DIR", positional=True)
    output: str | None = option(None, "folder of the new index", metavar="DIR")
    overwrite: bool = option(False, "replace an index that is there")
    index: DenseIndexConfig = configuration(DenseIndexConfig, "index")


def run(options: DenseIndexOptions) -> None:
    """Build the index and say on stderr how many passages it holds."""
    if options.vectors is None:
        raise InputError("no vectors given: name the folder that qpeft encode wrote")
    if options.output is None:
        raise InputError("no output given: name the folder of the index with --output")

    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.dense.index import build_dense_index
    from qpeft_rerank.dense.vectors import corpus_size

    with progress_bar("dense-index", " vectors", corpus_size(options.vectors)[0]) as bar:
        count = build_dense_index(
            options.vectors, options.output, options.index, options.overwrite, progress=bar.update
        )
    size = (Path(options.output) / "index").stat().st_size / 1e6
    _log.info("%s: %s passages, %s, %.1f MB", options.output, f"{count:,}", options.index.kind, size)


VERB = Verb(
    __doc__,
    "  qpeft dense-index vectors/squad --output indexes/squad.dense --kind hnsw",
    DenseIndexOptions,
    run,
)
