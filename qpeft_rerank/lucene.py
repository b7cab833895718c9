"""Open a Lucene index, by folder or by the name of one of Pyserini's prebuilt indexes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.errors import InputError, one_line
from qpeft_rerank.java import ensure_jvm, java_calls, java_class

LANGUAGE_FILE = "qpeft-language.json"  # in the folder of an index; Lucene leaves files of other names alone
ENGLISH = "en"


class LuceneIndex(NamedTuple):
    """An open index: its name as the user gave it, its folder, and Anserini's searcher on it."""

    name: str
    folder: Path
    searcher: Any

    def set_language(self, language: str | None) -> None:
        """Search with the analyzer of a language; by default the one that the index notes, else English.

        Raises :class:`InputError` for another language than that of the index, and one that Anserini has not.
        """
        noted = read_language(self.folder)
        if None not in (noted, language) and noted != language:
            raise InputError(f"{self.name}: the language of the index is {noted!r}, not {language!r}")
        analyzer = find_analyzer(language or noted or ENGLISH)
        if analyzer is not None:
            self.searcher.set_analyzer(analyzer)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the index's commit files, which hold random ids: an index built anew has another one,
        even of the same corpus.
        """
        commits = sorted(self.folder.glob("segments_*"))
        return hashlib.sha256(b"".join(commit.read_bytes() for commit in commits)).hexdigest()

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


def find_analyzer(language: str) -> Any:
    """Anserini's analyzer of a language by its code (``de``, ``zh``), which cuts and stems words; None for
    English, whose analyzer has settings of its own and is the default everywhere.

    Raises :class:`InputError` for a language that Anserini has no analyzer of.
    """
    if language == ENGLISH:
        return None
    analyzers = java_class("io.anserini.analysis.AnalyzerMap")
    with java_calls(f"language {language!r}: the analyzer cannot be made"):
        known = sorted(map(str, analyzers.analyzerMap.keySet().toArray()))
        if language not in known:
            codes = ", ".join(sorted({*known, ENGLISH}))
            raise InputError(f"language {language!r} is not one of those that Anserini has: {codes}")
        return analyzers.getLanguageSpecificAnalyzer(language)


def write_language(folder: Path, language: str) -> None:
    """Note the language of an index in its folder."""
    (folder / LANGUAGE_FILE).write_text(json.dumps({"language": language}) + "\n", encoding="utf-8")


def read_language(folder: Path) -> str | None:
    """The language that was noted; None in an index that this package did not build."""
    try:
        return json.loads((folder / LANGUAGE_FILE).read_text(encoding="utf-8"))["language"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / LANGUAGE_FILE}: cannot be read: {one_line(error)}") from error


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
