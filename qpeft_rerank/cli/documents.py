"""Cut long documents to windows for a first stage, and make a run of documents from a run of windows.

qpeft rerank cuts the documents of a run by itself, with --document-window.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from qpeft_rerank.cli.document_options import DocumentScoreOptions, WindowOptions
from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import InputRunOptions, OutputRunOptions
from qpeft_rerank.documents import SEPARATOR, WINDOW
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import check_output

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SeparatorOptions:
    """How the id of a window is made."""

    separator: str = option(
        SEPARATOR, "what stands between a document's id and its window's number", metavar="TEXT"
    )


@dataclass(kw_only=True)
class CutOptions(WindowOptions, SeparatorOptions):
    """Flags of `qpeft documents cut`."""

    corpus: str | None = option(None, "corpus file or folder (Anserini or BEIR JSONL, MS MARCO TSV, DPR TSV)")
    output: str = option(
        "-", "corpus of windows to write: JSONL (.gz: compressed; default: stdout)", metavar="FILE"
    )
    document_window: int = option(WINDOW, "words in a window, which has the title too", least=1)


def cut(options: CutOptions) -> None:
    """A corpus of documents -> one of windows."""
    from qpeft_rerank.corpora import read_corpus
    from qpeft_rerank.documents import cut_corpus

    if options.corpus is None:
        raise InputError("no corpus given: name it with --corpus")
    check_output(options.output, options.corpus)
    documents, windows = cut_corpus(
        read_corpus(options.corpus),
        options.output,
        options.document_window,
        options.document_stride,
        options.separator,
    )
    _log.info("%s documents, %s windows", f"{documents:,}", f"{windows:,}")


@dataclass(kw_only=True)
class JoinOptions(InputRunOptions, OutputRunOptions, DocumentScoreOptions, SeparatorOptions):
    """Flags of `qpeft documents join`."""

    hits: int = option(1000, "documents of each topic to write", least=1)


def join(options: JoinOptions) -> None:
    """A run of windows -> one of documents."""
    from qpeft_rerank.documents import document_run
    from qpeft_rerank.trec import write_run

    kind, best = options.kind_and_best()
    source = options.run_source()
    check_output(options.output, source)
    rankings = document_run(source, kind, best, options.separator, options.hits)
    write_run(rankings, options.output, options.runtag or kind)


VERBS = {
    "cut": Verb(
        "A corpus of documents -> a corpus of windows, to be indexed; ids are DOCID#0, DOCID#1, ...",
        "  qpeft documents cut --corpus documents.jsonl --document-window 150 --output windows.jsonl",
        CutOptions,
        cut,
    ),
    "join": Verb(
        "A run of windows (ids such as DOCID#4) -> a run of documents.",
        "  qpeft bm25 --index windows --topics topics.tsv --hits 1000 |\n"
        "      qpeft documents join --document-score mean --document-best 3 --hits 100 --output run.txt",
        JoinOptions,
        join,
    ),
}
