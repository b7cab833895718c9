"""Encode a corpus into vectors, the first half of a dense index: shards of .npy files and their docids.

A killed encoding goes on with --resume; finished shards are kept. Several machines may write to one output
folder: with --shard 0 --of 4 ... --shard 3 --of 4 each makes every fourth shard. The files are the same as
one machine's.
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
    shard_passages: int = option(10_000, "passages in a shard", least=1)
    shard: int = option(0, "number of the first shard to make, from 0", least=0)
    of: int = option(1, "make every so many-th shard from there on: how many machines make shards", least=1)
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
        raise InputError(f"--shard {options.shard} --of {options.of}: shards are counted from 0")
    if not Path(corpus).exists():
        raise InputError(f"{corpus}: no such file or folder")

    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.corpora import count_passages
    from qpeft_rerank.dense.vectors import encode_corpus, passages_in_shards

    encoder, total = options.open_encoder(), count_passages(corpus)
    if total is not None:
        total = passages_in_shards(total, options.shard_passages, options.shard, options.of)
    with progress_bar("encode", " passages", total) as bar:

        def skip(passages: int) -> None:
            bar.initial += passages  # the time estimate is of what is left
            bar.update(passages)

        count = encode_corpus(
            corpus,
            encoder,
            options.output,
            vector_type=options.vector_type,
            shard_passages=options.shard_passages,
            shard=options.shard,
            of=options.of,
            resume=options.resume,
            progress=bar.update,
            kept=skip,
        )
    if options.of == 1:
        _log.info("%s: vectors of %s passages", options.output, f"{count:,}")
    else:
        made = passages_in_shards(count, options.shard_passages, options.shard, options.of)
        _log.info(
            "%s: vectors of %s of %s passages, shard %d of %d",
            options.output,
            f"{made:,}",
            f"{count:,}",
            options.shard,
            options.of,
        )


VERB = Verb(
    __doc__,
    "  qpeft encode --corpus corpus/docs.jsonl --adapter repllama --output vectors/squad",
    EncodeOptions,
    run,
)
