"""Build a Lucene index from a corpus; plain Pyserini opens it too.

The corpus is a file or folder: Anserini JSONL (id, contents), BEIR JSONL (_id, title, text), MS MARCO TSV or
DPR TSV, .gz or not. The text is stored in the index, so that rerank finds it there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import CollectionOptions
from qpeft_rerank.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class IndexOptions(CollectionOptions):
    """Flags of `qpeft index`."""

    corpus: str | None = option(
        None, "corpus file or folder (default: the corpus of the collection file)", metavar="PATH"
    )
    output: str | None = option(
        None, "folder of the new index (default: the index of the collection file)", metavar="DIR"
    )
    language: str = option(
        "en", "language of the texts by its code, such as de, fr, zh: how words are cut and stemmed"
    )
    threads: int = option(1, "threads that write the index", least=1)
    overwrite: bool = option(False, "replace an index that is there")


def run(options: IndexOptions) -> None:
    """Build the index and say on stderr how many passages it holds."""
    from qpeft_rerank.bm25 import build_index
    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.lucene import is_index

    collection = options.load()
    corpus = options.corpus or (collection.required("corpus") if collection else None)
    output = options.output or (collection.index_folder() if collection else None)
    if corpus is None:
        raise InputError("no corpus given: name it with --corpus, or a collection file with -c")
    if output is None:
        raise InputError("no index folder given: name it with --output, or a collection file with -c")
    if not options.overwrite and is_index(Path(output)):
        raise InputError(f"{output}: there is an index already; --overwrite replaces it")
    with progress_bar("index", " passages") as bar:
        count = build_index(
            corpus,
            output,
            threads=options.threads,
            overwrite=options.overwrite,
            progress=bar.update,
            language=options.language,
        )
    _log.info("%s: %s passages", output, f"{count:,}")


VERB = Verb(__doc__, "  qpeft index --corpus corpus/docs.jsonl --output indexes/squad", IndexOptions, run)
