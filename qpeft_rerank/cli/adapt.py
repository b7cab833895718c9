"""Adapt a language model for dense retrieval on plain text, without labels (LLaRA), before RepLLaMA is
trained.

The text is a corpus, its passages in the order of the documents, or any text file with an empty line between
documents. The output is a model folder for `qpeft train --method repllama --model DIR`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from qpeft_rerank.cli.options import Verb, configuration, option, several
from qpeft_rerank.cli.shared_options import CollectionOptions, ModelOptions
from qpeft_rerank.dense.llara_config import LlaraConfig
from qpeft_rerank.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class AdaptOptions(ModelOptions, CollectionOptions):
    """Flags of `qpeft adapt`."""

    texts: list[str] = several(
        "text files, corpus files and folders, .gz too (default: the corpus of the collection file)",
        metavar="TEXT",
        positional=True,
    )
    dtype: str | None = option(
        None,
        "type of its weights (default: float32 where all are trained, since bfloat16 would lose small steps, "
        "else as for the other verbs)",
        choices=("float32", "bfloat16", "float16"),
    )
    output: str | None = option(None, "model folder to make", metavar="DIR")
    resume: bool = option(False, "go on with an adaptation that was not finished")
    settings: LlaraConfig = configuration(LlaraConfig, "adaptation")


def run(options: AdaptOptions) -> None:
    """Adapt and say where the model is."""
    collection = options.load()
    sources = options.texts or ([collection.required("corpus")] if collection else [])
    if not sources:
        raise InputError("no text given: name text files or corpus files, or a collection file with -c")
    if options.model is None:
        raise InputError("no model given: name one with --model")
    if options.output is None:
        raise InputError("no output given: name the model folder with --output")
    if options.quantize is not None:
        raise InputError("--quantize: quantised weights cannot be trained, nor a LoRA be merged into them")

    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.cli.train import log_progress
    from qpeft_rerank.dense.llara import adapt
    from qpeft_rerank.dense.texts import read_texts
    from qpeft_rerank.models.base import load_base
    from qpeft_rerank.training.folder import check_folder

    check_folder(options.output, options.resume)
    texts = read_texts(sources, options.settings.passage_words)
    _log.info("%s passages of text, %s with a next one", f"{len(texts):,}", f"{texts.followed:,}")
    usual = {} if options.settings.lora_rank else {"dtype": "float32"}
    base = load_base(options.model, **usual | options.base_options())
    with progress_bar("adapt", " steps") as bar:
        record = adapt(
            base,
            texts,
            options.settings,
            options.output,
            options.resume,
            log_progress(bar),
            {"texts": sources, "texts_sha256": texts.sha256},
        )
    _log.info("%s: %s trained parameters", options.output, f"{record['trained_parameters']:,}")


VERB = Verb(
    __doc__,
    "  qpeft adapt text/*.txt.gz --model meta-llama/Llama-2-7b-hf --output llara",
    AdaptOptions,
    run,
)
