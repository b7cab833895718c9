"""The vectors of a corpus as files: written shard by shard, by one machine or several; after a kill it goes
on.

    vectors/
      manifest.json            the encoder, its settings, and what the files hold
      probe.npy                what the encoder makes of a probe text: another encoder is told by it
      docids-00000.txt ...     the ids of a shard's passages, one per line
      passages-00000.sha256    what ids, titles and texts they had: a changed corpus is told by it
      vectors-00000.npy ...    their vectors [N, D], float32 or float16
      shards-0-of-1.json       written at the end: how many passages and shards the corpus has

Shard s holds the passages from s * size on, in the order of the corpus, so the files do not depend on how
many machines made them: of n machines, number i (from 0) makes the shards i, i + n, i + 2n ... A shard's
vectors are the last to appear under their name, so a shard that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from qpeft_rerank.corpora import read_corpus
from qpeft_rerank.dense.description import PLACES
from qpeft_rerank.dense.encoder import Encoder, check_probe, encode_probe
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import atomic_write, read_lines, replacing
from qpeft_rerank.passages import Passage
from qpeft_rerank.record import first_difference, run_record

MANIFEST, PROBE_FILE = "manifest.json", "probe.npy"
FORMAT = "qpeft-rerank vectors 1"
VECTOR_TYPES = ("float32", "float16")
SHARD_PASSAGES = 10_000  # 15 MB of 384 numbers, 160 MB of 4,096: minutes of work that a kill can cost


@dataclass(frozen=True)
class Shard:
    """One finished shard: its docids and its vectors [N, D], read from the disk as they are used."""

    docids: list[str]
    vectors: np.ndarray


def encode_corpus(
    corpus: str | Path | Iterable[Passage],
    encoder: Encoder,
    output: str | Path,
    vector_type: str = "float32",
    shard_passages: int = SHARD_PASSAGES,
    shard: int = 0,
    of: int = 1,
    resume: bool = False,
    progress: Callable[[int], object] | None = None,
    kept: Callable[[int], object] | None = None,
) -> int:
    """Encode the passages of a corpus into a folder of shards; return how many passages the corpus has.

    Args:
        corpus: a file or folder that `read_corpus` reads, or passages.
        encoder: turns passages into vectors.
        output: the folder; made if need be. Several machines may write to it at once.
        vector_type: how numbers are kept; float16 takes half the space, and moves a score by about 0.0005.
        shard_passages: passages in a shard.
        shard, of: shard number ``shard`` is made here, and every ``of``-th one after it; the others are made
            elsewhere.
        resume: keep finished shards and make the others.
        progress: called with numbers of passages, as they are encoded.
        kept: likewise, for those of shards that were there.

    Raises:
        InputError: the corpus is empty or malformed, the folder cannot be written or holds shards and is not
            to be resumed, or they were made by another encoder or with other settings.
    """
    if vector_type not in VECTOR_TYPES:
        raise InputError(f"vector_type: {vector_type!r} is not one of {', '.join(VECTOR_TYPES)}")
    if shard_passages < 1 or not 0 <= shard < of:
        raise InputError(f"shard {shard} of {of} with {shard_passages} passages each is not possible")
    folder = Path(output)
    name = str(corpus) if isinstance(corpus, (str, Path)) else "the corpus"
    settings = {"vectors": vector_type, "shard_passages": shard_passages, "encoder": encoder.describe()}
    passages = read_corpus(corpus) if isinstance(corpus, (str, Path)) else iter(corpus)
    first = list(islice(passages, 1))
    if not first:
        raise InputError(f"{name}: there are no passages in it")
    _begin(folder, settings, encoder, resume, shard, of, name)
    shards, count = 0, 0
    passages = chain(first, passages)
    while True:
        members = islice(passages, shard_passages)
        if shards % of == shard:
            size = _make_shard(folder, shards, list(members), encoder, vector_type, progress, kept)
        else:
            size = sum(1 for _ in members)
        count += size
        shards += size > 0
        if size < shard_passages:
            break
    done = {"shard": shard, "of": of, "passages": count, "shards": shards, "corpus": name}
    with atomic_write(folder / f"shards-{shard}-of-{of}.json") as stream:
        json.dump(done, stream, indent=2)
    return count


def passages_in_shards(count: int, shard_passages: int, shard: int, of: int) -> int:
    """How many of a corpus's ``count`` passages are in the shards ``shard``, ``shard + of`` ..."""
    starts = range(shard * shard_passages, count, of * shard_passages)
    return sum(min(shard_passages, count - start) for start in starts)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of vectors. Raises `InputError` if it is none."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no folder of vectors: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path}: is no manifest of vectors of qpeft-rerank")
    return manifest


def corpus_size(folder: str | Path) -> tuple[int, int]:
    """Passages and shards of the corpus, as those who made the shards say.

    Raises:
        InputError: the folder is none of vectors, nobody has made all their shards yet, or they do not agree.
    """
    folder = Path(folder)
    read_manifest(folder)
    done = sorted(folder.glob("shards-*-of-*.json"))
    if not done:
        raise InputError(f"{folder}: the encoding is not finished: resume it (--resume)")
    found = {_size(path) for path in done}
    if len(found) > 1:
        raise InputError(f"{folder}: its shards were made of corpora of different sizes: {sorted(found)}")
    return found.pop()


def read_probe(folder: str | Path) -> np.ndarray:
    """What the encoder made of the probe text, float32 [2, D]. Raises `InputError`."""
    return _load(Path(folder) / PROBE_FILE)


def read_shards(folder: str | Path) -> Iterator[Shard]:
    """The shards of a folder in the order of the corpus.

    Raises:
        InputError: some are not there yet, or are damaged; checked at the call, before the first is read.
    """
    folder = Path(folder)
    count, shards = corpus_size(folder)
    missing = [s for s in range(shards) if not _vectors(folder, s).is_file()]
    if missing:
        raise InputError(
            f"{folder}: shard {missing[0]} of {shards} is not there yet: {len(missing)} are missing"
        )
    return _read_all(folder, count, shards)


def _read_all(folder: Path, count: int, shards: int) -> Iterator[Shard]:
    read = 0
    for s in range(shards):
        docids = [line for _, line in read_lines(_docids(folder, s), "list of docids")]
        vectors = _load(_vectors(folder, s), mapped=True)
        if len(docids) != len(vectors):
            raise InputError(f"{folder}: shard {s} has {len(docids)} docids and {len(vectors)} vectors")
        read += len(docids)
        yield Shard(docids, vectors)
    if read != count:
        raise InputError(f"{folder}: its shards have {read} passages, the corpus has {count}")


def _begin(
    folder: Path,
    settings: Mapping[str, Any],
    encoder: Encoder,
    resume: bool,
    shard: int,
    of: int,
    name: str,
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from error
    there = [int(path.stem.rpartition("-")[2]) for path in folder.glob("vectors-[0-9]*.npy")]
    if not resume and any(number % of == shard for number in there):  # those of other machines may be there
        raise InputError(f"{folder} holds vectors already: resume (--resume), or choose another folder")
    if (folder / MANIFEST).is_file():
        before = read_manifest(folder)["settings"]
        _same_settings(before, json.loads(json.dumps(settings)), folder)
        check_probe(encoder, read_probe(folder), folder)
        if of == 1:
            for leftover in folder.glob(".*.tmp"):  # of a killed process; no other one writes here
                leftover.unlink(missing_ok=True)
        return
    if there:
        raise InputError(f"{folder} holds vectors without a {MANIFEST}: choose another folder")
    _save(folder / PROBE_FILE, encode_probe(encoder))
    with atomic_write(folder / MANIFEST) as stream:
        json.dump({"format": FORMAT, "corpus": name, **run_record(settings)}, stream, indent=2)


def _same_settings(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    before, now = (
        {**s, "encoder": {k: v for k, v in s["encoder"].items() if k not in PLACES}} for s in (before, now)
    )
    differs = first_difference(before, now)
    if differs is not None:
        raise InputError(
            f"cannot resume: {differs.name} differs from what the vectors in {where} were begun with"
        )


def _make_shard(
    folder: Path,
    shard: int,
    members: list[Passage],
    encoder: Encoder,
    vector_type: str,
    progress: Callable[[int], object] | None,
    kept: Callable[[int], object] | None,
) -> int:
    """Encode and write a shard that is not there yet; how many passages it has."""
    if not members:
        return 0
    digest, digest_file = _digest(members), folder / f"passages-{shard:05}.sha256"
    if _vectors(folder, shard).is_file():
        if not digest_file.is_file() or digest_file.read_text(encoding="utf-8").strip() != digest:
            raise InputError(f"cannot resume: shard {shard} in {folder} is of another corpus")
        if kept is not None:
            kept(len(members))
        return len(members)
    vectors = encoder.encode_passages(members, progress)
    with atomic_write(_docids(folder, shard)) as stream:
        stream.writelines(f"{passage.docid}\n" for passage in members)
    with atomic_write(digest_file) as stream:
        stream.write(f"{digest}\n")
    _save(_vectors(folder, shard), vectors.astype(vector_type))
    return len(members)


def _digest(passages: list[Passage]) -> str:
    """SHA-256 of ids, titles and texts."""
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(json.dumps(passage).encode())
    return digest.hexdigest()


def _size(path: Path) -> tuple[int, int]:
    """Passages and shards of the corpus, as a file of those who made shards says."""
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        return int(done["passages"]), int(done["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def _docids(folder: Path, shard: int) -> Path:
    return folder / f"docids-{shard:05}.txt"


def _vectors(folder: Path, shard: int) -> Path:
    return folder / f"vectors-{shard:05}.npy"


def _save(path: Path, vectors: np.ndarray) -> None:
    with replacing(path, OSError) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())  # a machine that goes down leaves no shard that only looks whole


def _load(path: Path, mapped: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
