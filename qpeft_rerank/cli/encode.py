"""Encode a corpus into vectors, the first half of a dense index: shards of .npy files and their docids.

A killed encoding goes on with --resume; finished shards are kept. Several machines share the work with
--shard 0 --of 4 ... --shard 3 --of 4 and one output folder; the files are the same as one machine's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from qpeft_rerank.cli.encoder_options import EncoderOptions
from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.shared_options import CollectionOptions
from qpeft_rerank.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EncodeOptions(EncoderOptions, CollectionOptions):
    """Flags of `qpeft encode`."""

    corpus: str | None = option(
        None, "corpus file or folder (default: the corpus of the collection file)", metavar="PATH"
    )
    output: str | None = option(None, "folder of the vectors", metavar="DIR")
    vector_type: str = option(
        "float32", "how numbers are kept; float16 takes half the space", choices=("float32", "float16")
    )
    shard_passages: int = option(10_000, "passages in a file", least=1)
    shard: int = option(0, "which share of the files is made here, from 0", least=0)
    of: int = option(1, "how many shares there are", least=1)
    resume: bool = option(False, "go on with an encoding that was not finished")


def run(options: EncodeOptions) -> None:
    """Encode and say on stderr how many passages there are."""
    collection = options.load()
    corpus = options.corpus or (collection.required("corpus") if collection else None)
    if corpus is None:
        raise InputError("no corpus given: name it with --corpus, or a collection file with -c")
    if options.output is None:
        raise InputError("no output given: name the folder of the vectors with --output")
    if options.shard >= options.of:
        raise InputError(f"--shard {options.shard} --of {options.of}: shares are counted from 0")
    if not Path(corpus).exists():
        raise InputError(f"{corpus}: no such file or folder")

    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.dense.vectors import encode_corpus

    encoder = options.open_encoder()
    with progress_bar("encode", " passages") as bar:
        count = encode_corpus(
            corpus,
            encoder,
            options.output,
            vector_type=options.vector_type,
            shard_passages=options.shard_passages,
            part=options.shard,
            parts=options.of,
            resume=options.resume,
            progress=bar.update,
        )
    share = f", share {options.shard} of {options.of}" if options.of > 1 else ""
    _log.info("%s: vectors of %s passages%s", options.output, f"{count:,}", share)


VERB = Verb(
    __doc__,
    "  qpeft encode --corpus corpus/docs.jsonl --adapter repllama --output vectors/squad",
    EncodeOptions,
    run,
)
