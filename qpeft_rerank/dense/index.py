"""Vectors -> a Faiss index, in a folder that Pyserini's ``FaissSearcher`` opens.

index      the Faiss index: exact (flat), a graph (HNSW), or compressed lists (IVF-PQ), by inner product
docid      the ids, one per line, in the index's order
dense.json the encoder and how it puts queries to its model, so that `search` can encode them
probe.npy  what the encoder makes of a probe text
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from qpeft_rerank.dense.vectors import PROBE_FILE, read_manifest, read_probe, read_shards
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import writing
from qpeft_rerank.folders import replacing_folder
from qpeft_rerank.record import run_record
from qpeft_rerank.settings import check_settings, setting

INDEX, DOCIDS, DESCRIPTION = "index", "docid", "dense.json"
FORMAT = "qpeft-rerank dense index 1"
KINDS = ("flat", "hnsw", "ivf-pq")
CENTROIDS = 256  # of a subvector, which 8 bits name; training needs as many vectors
LEAST_PER_LIST = 39  # Faiss's own measure of what a list's centre needs to be learned
ADD = 10_000  # vectors added at a time: what is copied to float32


@dataclass(frozen=True)
class DenseIndexConfig:
    """What kind of index is built.

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    kind: str = setting(
        "flat", "flat is exact; hnsw is a graph: fast, more memory; ivf-pq is small", choices=KINDS
    )
    links: int = setting(32, "hnsw: neighbours of a vector in the graph", least=2)
    ef_construction: int = setting(200, "hnsw: candidates looked at to place a vector", least=1)
    ef_search: int = setting(128, "hnsw: candidates looked at in a search", least=1)
    lists: int = setting(0, "ivf-pq: lists; 0 is 4 times the root of the number of passages", least=0)
    probes: int = setting(16, "ivf-pq: lists looked at in a search", least=1)
    subvectors: int = setting(
        0, "ivf-pq: bytes that a vector becomes, a divisor of its length; 0 is about 64", least=0
    )
    train_vectors: int = setting(
        500_000, "ivf-pq: vectors that lists and codes are learned from, at most", least=1
    )
    threads: int = setting(1, "threads that build", least=1)

    def __post_init__(self) -> None:
        check_settings(self)


def build_dense_index(
    vectors: str | Path,
    output: str | Path,
    config: DenseIndexConfig | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Build a Faiss index of a folder of vectors; return the number of passages in it.

    Args:
        vectors: the folder that `encode_corpus` wrote, complete.
        output: the folder to make. It is built beside its place and moved there when it is complete.
        config: the kind of index, flat by default.
        overwrite: replace ``output`` if it is a dense index.
        progress: called with numbers of vectors, as they are added.

    Raises:
        InputError: the vectors are not complete, too few for the kind of index, or ``output`` is taken.
    """
    import faiss

    config, source, target = config or DenseIndexConfig(), Path(vectors), Path(output)
    check_target(target, overwrite)
    manifest, shards = read_manifest(source), list(read_shards(source))
    count, dimension = sum(len(shard.docids) for shard in shards), shards[0].vectors.shape[1]
    arrays = [shard.vectors for shard in shards]
    index = _empty_index(config, count, dimension)
    faiss.omp_set_num_threads(config.threads)
    if not index.is_trained:
        index.train(_sample(arrays, count, config.train_vectors, max(index.nlist, CENTROIDS)))
    for array in arrays:
        for start in range(0, len(array), ADD):
            part = np.ascontiguousarray(array[start : start + ADD], dtype=np.float32)
            index.add(part)
            if progress is not None:
                progress(len(part))
    parameters = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "threads"}
    if config.kind == "ivf-pq":
        parameters |= {"lists": index.nlist, "subvectors": index.pq.M}
    vectors_settings = {k: v for k, v in manifest["settings"].items() if k != "encoder"}
    settings = {"vectors": vectors_settings, "index": parameters}
    facts = {"format": FORMAT, "kind": config.kind, "passages": count, "dimension": dimension}
    with replacing_folder(target) as building, writing(str(target), OSError, RuntimeError):
        faiss.write_index(index, str(building / INDEX))
        with (building / DOCIDS).open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{docid}\n" for shard in shards for docid in shard.docids)
        np.save(building / PROBE_FILE, read_probe(source), allow_pickle=False)
        description = {**facts, "encoder": manifest["settings"]["encoder"], **run_record(settings)}
        (building / DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")
    return count


def is_dense_index(folder: Path) -> bool:
    """Whether a folder is a Faiss index as Pyserini and this package write it."""
    return (folder / INDEX).is_file() and (folder / DOCIDS).is_file()


def check_target(target: Path, overwrite: bool) -> None:
    """Raises `InputError` if an index cannot be written there."""
    if target.is_dir() and any(target.iterdir()):
        if not is_dense_index(target):
            raise InputError(f"{target}: the folder is not empty and not a dense index")
        if not overwrite:
            raise InputError(f"{target}: there is a dense index already; --overwrite replaces it")
    elif target.exists() and not target.is_dir():
        raise InputError(f"{target}: a file is in the place of the index")


def _empty_index(config: DenseIndexConfig, count: int, dimension: int) -> Any:
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT
    if config.kind == "flat":
        return faiss.index_factory(dimension, "Flat", metric)
    if config.kind == "hnsw":
        index = faiss.index_factory(dimension, f"HNSW{config.links},Flat", metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = config.ef_construction, config.ef_search
        return index
    if count < CENTROIDS:
        raise InputError(f"ivf-pq: {count} passages are too few, it needs {CENTROIDS}: take flat")
    subvectors = config.subvectors or max(m for m in range(1, 65) if dimension % m == 0)
    if dimension % subvectors:
        raise InputError(f"subvectors: {subvectors} is no divisor of the vectors' length {dimension}")
    lists = config.lists or max(1, min(round(4 * count**0.5), count // LEAST_PER_LIST))
    if lists > count:
        raise InputError(f"lists: {lists} are more than the {count} passages")
    # np: not polysemous, which takes minutes to learn what only a search by Hamming distance uses
    index = faiss.index_factory(dimension, f"IVF{lists},PQ{subvectors}np", metric)
    index.nprobe = min(config.probes, lists)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # else it writes to stderr
    return index


def _sample(arrays: list[np.ndarray], count: int, most: int, least: int) -> np.ndarray:
    """Vectors spread evenly over the corpus, float32. Raises `InputError` for fewer than ``least``."""
    step = -(-count // most)
    if (found := -(-count // step)) < least:
        raise InputError(
            f"train_vectors: {most} are too few: that takes {found} of the {count} vectors, and the index "
            f"needs {least}"
        )
    kept, start = [], 0
    for array in arrays:
        kept.append(np.asarray(array[-start % step :: step], dtype=np.float32))
        start += len(array)
    return np.ascontiguousarray(np.concatenate(kept))
