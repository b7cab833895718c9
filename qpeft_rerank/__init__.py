"""Query-dependent reranking of TREC runs with frozen language models (Q-PEFT, arXiv 2404.04522).

The functions and classes below are all that most programs need; importing this package loads neither torch
nor Java.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qpeft_rerank.version import __version__

if TYPE_CHECKING:
    from qpeft_rerank.bm25 import build_index, search
    from qpeft_rerank.collection import load_collection
    from qpeft_rerank.dense.encoder import open_encoder
    from qpeft_rerank.dense.index import DenseIndexConfig, build_dense_index
    from qpeft_rerank.dense.llara import adapt
    from qpeft_rerank.dense.llara_config import LlaraConfig
    from qpeft_rerank.dense.search import open_dense_index, search_dense
    from qpeft_rerank.dense.vectors import encode_corpus
    from qpeft_rerank.document_scorer import DocumentScorer
    from qpeft_rerank.documents import cut_corpus, document_run
    from qpeft_rerank.errors import QpeftError
    from qpeft_rerank.evaluation import evaluate
    from qpeft_rerank.explaining import explain_run
    from qpeft_rerank.file_reranking import rerank_to_file
    from qpeft_rerank.frame_reranking import rerank_frame
    from qpeft_rerank.fusion import FusionConfig, fuse, pool_runs
    from qpeft_rerank.fusion_weights import load_weights, save_weights, tune_weights
    from qpeft_rerank.models.adapter import load_adapter, push_adapter, save_adapter
    from qpeft_rerank.models.base import load_base
    from qpeft_rerank.models.config import AdapterConfig
    from qpeft_rerank.passages import Passage, open_passages
    from qpeft_rerank.rankings import Ranking, ScoredDoc
    from qpeft_rerank.report import format_report
    from qpeft_rerank.reranker import Reranker
    from qpeft_rerank.reranking import rerank
    from qpeft_rerank.seeds import average_seeds
    from qpeft_rerank.significance import compare
    from qpeft_rerank.topics import read_topics, write_topics
    from qpeft_rerank.training.config import TrainingConfig
    from qpeft_rerank.training.data import TrainingData
    from qpeft_rerank.training.loop import train
    from qpeft_rerank.trec import read_qrels, read_run, write_qrels, write_run
    from qpeft_rerank.workers import Workers

_HOME = {
    "build_index": "bm25",
    "search": "bm25",
    "load_collection": "collection",
    "open_encoder": "dense.encoder",
    "DenseIndexConfig": "dense.index",
    "build_dense_index": "dense.index",
    "adapt": "dense.llara",
    "LlaraConfig": "dense.llara_config",
    "open_dense_index": "dense.search",
    "search_dense": "dense.search",
    "encode_corpus": "dense.vectors",
    "DocumentScorer": "document_scorer",
    "cut_corpus": "documents",
    "document_run": "documents",
    "QpeftError": "errors",
    "evaluate": "evaluation",
    "explain_run": "explaining",
    "rerank_to_file": "file_reranking",
    "rerank_frame": "frame_reranking",
    "FusionConfig": "fusion",
    "fuse": "fusion",
    "pool_runs": "fusion",
    "load_weights": "fusion_weights",
    "save_weights": "fusion_weights",
    "tune_weights": "fusion_weights",
    "load_adapter": "models.adapter",
    "push_adapter": "models.adapter",
    "save_adapter": "models.adapter",
    "load_base": "models.base",
    "AdapterConfig": "models.config",
    "Passage": "passages",
    "open_passages": "passages",
    "Ranking": "rankings",
    "ScoredDoc": "rankings",
    "format_report": "report",
    "Reranker": "reranker",
    "rerank": "reranking",
    "average_seeds": "seeds",
    "compare": "significance",
    "read_topics": "topics",
    "write_topics": "topics",
    "TrainingConfig": "training.config",
    "TrainingData": "training.data",
    "train": "training.loop",
    "read_qrels": "trec",
    "read_run": "trec",
    "write_qrels": "trec",
    "write_run": "trec",
    "Workers": "workers",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
