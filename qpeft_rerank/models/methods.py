"""Which class scores by which method."""

from __future__ import annotations

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import ENCODERS, AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.models.rankllama import RankLlama
from qpeft_rerank.models.scorer import Scorer


def make_scorer(base: BaseModel, config: AdapterConfig) -> Scorer:
    """A scorer of ``config.method`` with a fresh trained part.

    Raises `InputError` for a method that scores no pairs.
    """
    if config.method in ENCODERS:
        raise InputError(f"method {config.method!r} is an encoder of the dense first stage: see qpeft encode")
    return RankLlama(base, config) if config.method == "rankllama" else QueryLikelihood(base, config)
