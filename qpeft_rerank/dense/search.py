"""Search topics in a Faiss index by the vectors of their queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qpeft_rerank.dense.config import read_description
from qpeft_rerank.dense.description import encoder_arguments
from qpeft_rerank.dense.encoder import Encoder, check_probe
from qpeft_rerank.dense.index import DESCRIPTION, DOCIDS, FORMAT, INDEX, is_dense_index
from qpeft_rerank.dense.vectors import PROBE_FILE, read_probe
from qpeft_rerank.errors import InputError, one_line
from qpeft_rerank.files import read_lines
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.topics import Topics, as_topics

TOPICS = 256  # encoded and searched at once: a run begins to flow after the first few


@dataclass(frozen=True)
class DenseIndex:
    """An open index.

    Attributes:
        folder: where it lies.
        faiss: the Faiss index.
        docids: the id of each vector.
        description: what ``dense.json`` says; empty for an index that this package did not make.
    """

    folder: Path
    faiss: Any
    docids: list[str]
    description: dict[str, Any]


def open_dense_index(folder: str | Path) -> DenseIndex:
    """Open a folder with ``index`` and ``docid``. Raises `InputError` if it is none, or is damaged."""
    import faiss

    folder = Path(folder)
    if not is_dense_index(folder):
        raise InputError(
            f"{folder}: no dense index: a folder with the files {INDEX} and {DOCIDS} was expected"
        )
    try:
        index = faiss.read_index(str(folder / INDEX))
    except RuntimeError as error:
        raise InputError(f"{folder / INDEX}: Faiss cannot read it: {one_line(error)}") from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(f"{folder}: the index is searched by a distance, not by inner product")
    docids = [line.rstrip() for _, line in read_lines(folder / DOCIDS, "list of docids")]
    if index.ntotal != len(docids):
        raise InputError(f"{folder}: the index has {index.ntotal} vectors, {DOCIDS} {len(docids)} ids")
    return DenseIndex(folder, index, docids, _read_description(folder))


def encoder_of(index: DenseIndex) -> dict[str, Any]:
    """Arguments of `open_encoder` for the encoder of an index. Raises `InputError` if it names none."""
    if not index.description:
        raise InputError(
            f"{index.folder} has no {DESCRIPTION}, which would name its encoder: name it with --model"
        )
    return encoder_arguments(index.description["encoder"])


def set_effort(index: DenseIndex, ef_search: int | None = None, probes: int | None = None) -> None:
    """How hard an approximate index looks: candidates of a graph (HNSW), lists (IVF).

    Raises `InputError` for an index that has no such setting.
    """
    for name, part, attribute, value in (
        ("ef_search", getattr(index.faiss, "hnsw", None), "efSearch", ef_search),
        ("probes", index.faiss if hasattr(index.faiss, "nprobe") else None, "nprobe", probes),
    ):
        if value is None:
            continue
        if part is None:
            raise InputError(f"{name}: the index {index.folder} has no such setting")
        if value < 1:
            raise InputError(f"{name}: {value} is not at least 1")
        setattr(part, attribute, value)


def search_dense(
    index: DenseIndex | str | Path,
    topics: Topics,
    encoder: Encoder,
    hits: int = 100,
    threads: int = 1,
    remove_query: bool = False,
) -> Iterator[Ranking]:
    """Search topics; yield one ranking per topic, in the order of the topics, as they are found.

    Scores are inner products; equal ones are ordered as trec_eval orders them, by docid, descending. A topic
    without text gives a ranking without documents.

    Args:
        index: an open index, or its folder.
        topics: the query by topic id, or a file, name or data frame of topics.
        encoder: the one that made the vectors.
        hits: documents per topic. threads: of Faiss.
        remove_query: leave out the document whose id is the topic's (ArguAna, Quora).

    Raises:
        InputError: a setting out of range, or another encoder than the one that made the vectors; at the
            call.
    """
    if hits < 1 or threads < 1:
        raise InputError(f"hits and threads must be at least 1, not {hits} and {threads}")
    topics = as_topics(topics)
    opened = index if isinstance(index, DenseIndex) else open_dense_index(index)
    if (opened.folder / PROBE_FILE).is_file():
        dtype = opened.description.get("encoder", {}).get("dtype")
        check_probe(encoder, read_probe(opened.folder), opened.folder, dtype)
    elif encoder.dimension != opened.faiss.d:
        raise InputError(
            f"{opened.folder}: vectors of {opened.faiss.d} numbers, the encoder's have {encoder.dimension}"
        )
    return _search_all(opened, topics, encoder, hits, threads, remove_query)


def _search_all(
    index: DenseIndex,
    topics: Mapping[str, str],
    encoder: Encoder,
    hits: int,
    threads: int,
    remove_query: bool,
) -> Iterator[Ranking]:
    import faiss

    wanted = min(hits + 1 if remove_query else hits, len(index.docids))
    remaining = iter(topics.items())
    while chunk := list(islice(remaining, TOPICS)):
        asked = {qid: text for qid, text in chunk if text.strip()}
        rankings: dict[str, list[ScoredDoc]] = {}
        if asked:
            queries = encoder.encode_queries(list(asked.values()))
            faiss.omp_set_num_threads(threads)
            scores, places = index.faiss.search(np.ascontiguousarray(queries, dtype=np.float32), wanted)
            for qid, row, found in zip(asked, scores.tolist(), places.tolist(), strict=True):
                docs = [(score, index.docids[place]) for score, place in zip(row, found) if place >= 0]
                docs.sort(reverse=True)
                kept = (ScoredDoc(id_, score) for score, id_ in docs if not (remove_query and id_ == qid))
                rankings[qid] = list(islice(kept, hits))
        for qid, _ in chunk:
            yield Ranking(qid, rankings.get(qid, []))


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    return read_description(path, FORMAT, "a dense index") if path.is_file() else {}
