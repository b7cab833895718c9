"""Options for long documents, shared by the verbs that cut them and that score them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qpeft_rerank.cli.options import option
from qpeft_rerank.documents import BEST, DOCUMENT_SCORES, checked_stride
from qpeft_rerank.errors import InputError

if TYPE_CHECKING:
    from qpeft_rerank.reranker import PairScorer


@dataclass(kw_only=True)
class WindowOptions:
    """How long documents are cut."""

    title: ClassVar[str] = "windows of long documents"

    document_window: int | None = option(
        None, "cut texts to windows of so many words, each with the title (default: not cut)", least=1
    )
    document_stride: int | None = option(
        None, "words from the start of a window to the next (default: half the window)", least=1
    )


@dataclass(kw_only=True)
class DocumentScoreOptions:
    """How a document is scored by its windows."""

    title: ClassVar[str] = "score of a long document"

    document_score: str | None = option(
        None,
        "its best window, its first one, or the mean of its best ones (default: max)",
        choices=DOCUMENT_SCORES,
    )
    document_best: int | None = option(
        None, f"how many windows the mean is of, at most (default: {BEST})", least=1
    )

    def kind_and_best(self) -> tuple[str, int]:
        """Both, with their defaults."""
        if self.document_best is not None and self.document_score != "mean":
            raise InputError("--document-best is for --document-score mean")
        return self.document_score or "max", self.document_best or BEST


@dataclass(kw_only=True)
class DocumentOptions(WindowOptions, DocumentScoreOptions):
    """Both, for a stage that cuts and scores."""

    def check_documents(self) -> None:
        """Raise `InputError` for flags that do not go together."""
        for name in ("document_stride", "document_score", "document_best"):
            if self.document_window is None and getattr(self, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} needs --document-window")
        if self.document_window is not None:
            checked_stride(self.document_window, self.document_stride)
            self.kind_and_best()

    def by_windows(self, scorer: PairScorer) -> PairScorer:
        """The scorer, around which a `DocumentScorer` cuts where a window was given."""
        if self.document_window is None:
            return scorer
        from qpeft_rerank.document_scorer import DocumentScorer

        return DocumentScorer(scorer, self.document_window, self.document_stride, *self.kind_and_best())
