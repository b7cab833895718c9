"""The flags that name what scores pairs: an adapter with its base model, or a plain model with a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from qpeft_rerank.cli.options import borrowed, option
from qpeft_rerank.cli.shared_options import ModelOptions
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import ENCODERS, METHODS, AdapterConfig

if TYPE_CHECKING:
    from qpeft_rerank.reranker import Reranker


@dataclass(kw_only=True)
class PromptOptions:
    """Settings of a method that is not trained; an adapter brings its own."""

    title: ClassVar[str] = "without an adapter"

    method: str | None = option(
        None, "method (default: hard-prompt, the only one that needs no training)", choices=METHODS
    )
    prompt: str | None = borrowed(AdapterConfig, "prompt")
    passage_tokens: int | None = borrowed(AdapterConfig, "passage_tokens")
    passage_format: str | None = borrowed(AdapterConfig, "passage_format")
    layout: str | None = borrowed(AdapterConfig, "layout")

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        return {f.name: value for f in fields(PromptOptions) if (value := getattr(self, f.name)) is not None}


@dataclass(kw_only=True)
class ScorerOptions(ModelOptions, PromptOptions):
    """An adapter, or a model without one."""

    title: ClassVar[str] = "adapter"

    adapter: str | None = option(None, "adapter: folder or Hugging Face name", metavar="DIR")
    force: bool = option(False, "use the adapter on another base model than it was trained for")

    def check_scorer(self) -> None:
        """Raise `InputError` for flags that do not go together."""
        settings = self.given()
        if self.adapter is not None and settings:
            flag = next(iter(settings)).replace("_", "-")
            raise InputError(f"--{flag} and --adapter: an adapter brings its own settings")
        if self.adapter is None and self.model is None:
            raise InputError("no model given: name an adapter with --adapter, or a model with --model")
        if self.adapter is None and self.force:
            raise InputError("--force is for an adapter: name it with --adapter")
        if self.method in ENCODERS:
            raise InputError(
                f"--method {self.method} is an encoder of the dense first stage: see qpeft encode"
            )
        if AdapterConfig(method=self.method or "hard-prompt").trainable and self.adapter is None:
            raise InputError(f"--method {self.method} must be trained: name its adapter with --adapter")

    def loader(self, base_options: dict[str, str], **limits: int | None) -> Callable[..., Reranker]:
        """What loads the reranker (several processes call it, each for itself); ``limits`` of its batches."""
        from qpeft_rerank.reranker import Reranker

        if self.adapter is not None:
            origin = {"model": self.model, "force": self.force}
            return partial(Reranker.from_adapter, self.adapter, **limits, **origin, **base_options)
        settings = self.given()
        method = settings.pop("method", "hard-prompt")
        return partial(Reranker.from_model, self.model, method, settings=settings, **limits, **base_options)
