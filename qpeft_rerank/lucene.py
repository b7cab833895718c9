"""Open a Lucene index, by folder or by the name of one of Pyserini's prebuilt indexes."""

from __future__ import annotations

import contextlib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.errors import InputError, one_line
from qpeft_rerank.java import ensure_jvm, java_calls, java_class


class LuceneIndex(NamedTuple):
    """An open index: its name as the user gave it, its folder, and Anserini's searcher on it."""

    name: str
    folder: Path
    searcher: Any

    def close(self) -> None:
        """Give the files back."""
        with java_calls(f"{self.name}: the Lucene index cannot be closed"):
            self.searcher.close()


def open_index(index: str | Path) -> LuceneIndex:
    """Open ``index``, a folder or a prebuilt name such as ``msmarco-v1-passage`` (fetched once).

    Anserini's searcher is taken as Pyserini takes it, but without ``pyserini.search.lucene``, whose import
    loads torch and an OpenAI client and takes many seconds.

    Raises :class:`InputError` if it is neither, cannot be fetched, or is damaged.
    """
    folder = index_folder(index)
    searcher_class = java_class("io.anserini.search.SimpleSearcher")
    with java_calls(f"{index}: the Lucene index cannot be opened"):
        return LuceneIndex(str(index), folder, searcher_class(str(folder)))


def index_folder(index: str | Path) -> Path:
    """The folder of an index given by folder or prebuilt name, fetched if need be."""
    path = Path(index)
    if path.is_dir():
        if not is_index(path):
            raise InputError(f"{index}: the folder is not a Lucene index (it has no segments file)")
        return path
    if path.exists():
        raise InputError(f"{index}: expected the folder of a Lucene index, found a file")
    return _fetch_prebuilt(str(index))


def is_index(folder: Path) -> bool:
    """Whether a folder holds a committed Lucene index."""
    return any(folder.glob("segments_*"))


def _fetch_prebuilt(name: str) -> Path:
    ensure_jvm()
    with contextlib.redirect_stdout(sys.stderr):  # Pyserini prints what it does; stdout is for runs
        from pyserini.prebuilt_index_info import TF_INDEX_INFO
        from pyserini.util import check_downloaded, download_prebuilt_index

        if name not in TF_INDEX_INFO:
            raise InputError(
                f"{name}: neither a folder with a Lucene index nor the name of a prebuilt index of Pyserini"
            )
        entry = TF_INDEX_INFO[name]
        if not check_downloaded(name) and not any(_reachable(url) for url in entry["urls"]):
            raise InputError(
                f"the prebuilt index {name} cannot be fetched: no network, or {entry['urls'][0]} is gone"
            )
        try:
            return Path(download_prebuilt_index(name, verbose=False))
        except Exception as error:  # Pyserini raises whatever its downloads, checks and tar files raise
            reason = one_line(error)
            raise InputError(f"the prebuilt index {name} cannot be fetched: {reason}") from error


def _reachable(url: str) -> bool:
    """Whether a server answers; asked first, as Pyserini's own download fails with many lines."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30):
            return True
    except urllib.error.HTTPError as error:
        return error.code != 404
    except OSError:  # URLError and the time-outs are OSErrors
        return False
