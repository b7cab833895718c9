"""First stage: index a corpus with Lucene and search it with BM25, both by Pyserini's Anserini.

Documents, order and scores are those of ``python -m pyserini.search.lucene --bm25`` with the same settings.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from qpeft_rerank.corpora import Passage, contents_of, read_corpus
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import writing
from qpeft_rerank.folders import replacing_folder
from qpeft_rerank.java import ensure_jvm, java_calls, java_class, java_list
from qpeft_rerank.lucene import ENGLISH, LuceneIndex, find_analyzer, is_index, open_index, write_language
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.topics import Topics, as_topics

logger = logging.getLogger(__name__)

BATCH_PASSAGES = (
    2_000  # passages handed to Java at once: enough to keep several threads busy, a few MB of text
)
TOPICS_PER_THREAD = 16  # topics searched at once, per thread: a run begins to flow after the first few topics

# What Java's String.trim() takes off: Anserini refuses a passage of which nothing is left.
JAVA_BLANKS = "".join(map(chr, range(0x21)))

# Prebuilt indexes without document vectors whose stored text Pyserini parses again for RM3, and as what.
RM3_COLLECTIONS = {
    "msmarco-v1-passage": "JsonCollection",
    "msmarco-v1-doc": "JsonCollection",
    "msmarco-v1-doc-segmented": "JsonCollection",
    "msmarco-v2-passage": "MsMarcoV2PassageCollection",
    "msmarco-v2-passage-augmented": "MsMarcoV2PassageCollection",
    "msmarco-v2-doc": "MsMarcoV2DocCollection",
    "msmarco-v2-doc-segmented": "MsMarcoV2DocCollection",
}


def build_index(
    corpus: str | Path | Iterable[Passage],
    output: str | Path,
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
    overwrite: bool = False,
    language: str = ENGLISH,
) -> int:
    """Build a Lucene index of a corpus that plain Pyserini opens; return the number of passages in it.

    Title and text are indexed together (field ``contents``), with positions and document vectors (RM3 needs
    them); the passages themselves are stored, so that the index is all that a reranker needs. A passage
    without any text is left out, as Anserini does, with a warning in the log.

    Args:
        corpus: a file or folder that :func:`qpeft_rerank.corpora.read_corpus` reads, or passages.
        output: the folder to make. It is built beside its place and moved there when it is complete.
        threads: indexing threads.
        progress: called with numbers of passages, as they are read.
        overwrite: replace ``output`` if it is a Lucene index; without it a folder that is not empty is an
            error.
        language: of the texts, by its code (``de``, ``fr``, ``zh``): which of Lucene's analyzers cuts and
            stems the words. The index keeps it for `search`.

    Raises:
        InputError: the corpus is empty or malformed, ``output`` is taken or cannot be written, or there is no
            analyzer of the language.
        DependencyError: no Java.
    """
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    target = Path(output)
    _check_target(target, overwrite)
    if isinstance(corpus, (str, Path)):
        passages, name = read_corpus(corpus), str(corpus)
    else:
        passages, name = iter(corpus), "the corpus"
    ensure_jvm()
    find_analyzer(language)  # Anserini's indexer takes English for what it does not know
    with replacing_folder(target) as building, writing(str(target)):
        done = _index_into(building, target, passages, threads, progress, language)
        if done == 0:
            raise InputError(f"{name}: no passage with text to index")
        _check_complete(building, done, target)
        write_language(building, language)
    return done


def search(
    index: str | Path,
    topics: Topics,
    hits: int = 100,
    k1: float = 0.9,
    b: float = 0.4,
    rm3: bool = False,
    threads: int = 1,
    remove_query: bool = False,
    language: str | None = None,
) -> Iterator[Ranking]:
    """Search topics with BM25; yield one ranking per topic, in the order of the topics, as they are found.

    A topic without hits (no word of it is in the index) gives a ranking without documents.

    Args:
        index: the folder of a Lucene index, or the name of one of Pyserini's prebuilt indexes.
        topics: the query by topic id, or a file, name or data frame of topics.
        hits: how many documents at most per topic. k1, b: BM25's parameters; the defaults are Anserini's.
            (Given the name ``msmarco-v1-passage``, Pyserini's own command sets 0.82 and 0.68 unless told;
            here the defaults hold for every index.)
        rm3: expand each query with RM3 pseudo-relevance feedback (10 terms, 10 documents, weight 0.5:
            Pyserini's defaults).
        threads: topics searched at the same time. The result does not depend on it.
        remove_query: leave out the document whose id is the topic's, for collections whose queries are
            documents themselves (BEIR's ArguAna and Quora). Pyserini's option of that name then gives one
            document less; here the next one moves up.
        language: of the index, where it was built elsewhere; by default what `build_index` noted, else
            English.

    Raises:
        InputError: a setting out of range, an index that cannot be opened, another language than that of the
            index, or RM3 without document vectors.
        DependencyError: no Java.
    """
    # Checked at the call, not at the first ranking, so that no output file is begun for a wrong setting.
    if hits < 1 or threads < 1:
        raise InputError(f"hits and threads must be at least 1, not {hits} and {threads}")
    if not k1 >= 0:
        raise InputError(f"k1 must be 0 or more, not {k1}")
    if not 0 <= b <= 1:
        raise InputError(f"b must lie between 0 and 1, not {b}")
    topics = as_topics(topics)
    opened = open_index(index)
    with java_calls(f"{opened.name}: BM25 cannot be set up"):
        opened.set_language(language)
        opened.searcher.set_bm25(float(k1), float(b))
        if rm3:
            _set_rm3(opened)
    return _search_all(opened, topics, hits, threads, remove_query)


def _search_all(
    index: LuceneIndex, topics: Mapping[str, str], hits: int, threads: int, remove_query: bool
) -> Iterator[Ranking]:
    wanted = hits + 1 if remove_query else hits
    try:
        remaining = iter(topics.items())
        while chunk := list(islice(remaining, TOPICS_PER_THREAD * threads)):
            qids = [qid for qid, _ in chunk]
            with java_calls(f"{index.name}: the search failed near topic {qids[0]!r}"):
                queries = java_list(text for _, text in chunk)
                found = index.searcher.batch_search(queries, java_list(qids), wanted, threads)
                docs = {
                    qid: [ScoredDoc(hit.docid, hit.score) for hit in found.get(qid) or ()] for qid in qids
                }
            for qid in qids:
                kept = (doc for doc in docs[qid] if not (remove_query and doc.docid == qid))
                yield Ranking(qid, list(islice(kept, hits)))
    finally:
        index.close()


def _set_rm3(index: LuceneIndex) -> None:
    """As Pyserini's ``LuceneSearcher.set_rm3``, whose parameters these are."""
    collection = None
    if not _has_document_vectors(index.searcher.reader):
        collection = RM3_COLLECTIONS.get(index.name)
        if collection is None:
            raise InputError(
                f"{index.name}: RM3 needs document vectors; this index was built without (--storeDocvectors)"
            )
    index.searcher.set_rm3(collection, 10, 10, 0.5, False, True)


def _has_document_vectors(reader: Any) -> bool:
    # More than the first document is looked at, as a document without words has no vector.
    vectors = reader.termVectors()
    return any(vectors.get(number) is not None for number in range(min(100, reader.maxDoc())))


def _index_into(
    folder: Path,
    target: Path,
    passages: Iterator[Passage],
    threads: int,
    progress: Callable[[int], object] | None,
    language: str,
) -> int:
    options = ["-collection", "JsonCollection", "-input", "", "-index", str(folder), "-threads", str(threads)]
    options += ["-storePositions", "-storeDocvectors", "-storeRaw", "-language", language]
    with java_calls(f"{target}: Lucene cannot begin the index"):
        indexer = java_class("io.anserini.index.SimpleIndexer")(options)
    try:
        indexed = _add_all(indexer, target, passages, progress)
    except BaseException:
        with suppress(InputError), java_calls("the index that is given up cannot be closed"):
            indexer.close()
        raise
    with java_calls(f"{target}: Lucene cannot complete the index (is the disk full?)"):
        indexer.close()
    (folder / "write.lock").unlink(missing_ok=True)
    return indexed


def _add_all(
    indexer: Any, target: Path, passages: Iterator[Passage], progress: Callable[[int], object] | None
) -> int:
    read = indexed = 0
    while batch := list(islice(passages, BATCH_PASSAGES)):
        records = [_stored_json(passage) for passage in batch if contents_of(passage).strip(JAVA_BLANKS)]
        first = batch[0].docid
        with java_calls(
            f"{target}: passage {first!r} or one of the {len(batch) - 1} after it cannot be indexed"
        ):
            taken = indexer.addRawDocuments(records)
        if taken != len(records):
            raise InputError(
                f"{target}: Lucene took only {taken} of the {len(records)} passages from {first!r} on"
                " (is the disk full?)"
            )
        read += len(batch)
        indexed += len(records)
        if progress is not None:
            progress(len(batch))
    if read > indexed:
        logger.warning("%d of %d passages have no text and are left out of the index", read - indexed, read)
    return indexed


def _stored_json(passage: Passage) -> str:
    # ASCII only: pyjnius spoils characters beyond U+FFFF, while Java reads JSON's escapes rightly.
    record = {"id": passage.docid, "title": passage.title, "contents": contents_of(passage)}
    return json.dumps(record, ensure_ascii=True)


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: a file is in the place of the index")
    if not any(target.iterdir()):
        return
    if not is_index(target):
        raise InputError(f"{target}: the folder is not empty and not a Lucene index")
    if not overwrite:
        raise InputError(f"{target}: there is an index already, and it is not to be overwritten")


def _check_complete(folder: Path, expected: int, target: Path) -> None:
    """Count again what was written: Lucene's threads may fail without telling the caller."""
    try:
        written = open_index(folder)
        with java_calls(f"{target}: the finished index cannot be read"):
            count = written.searcher.get_total_num_docs()
            written.close()
    except InputError as error:  # its message may name the folder of the building, which is gone afterwards
        raise InputError(
            f"{target}: the index is not whole: Lucene did not complete it (is the disk full?)"
        ) from error
    if count != expected:
        raise InputError(f"{target}: Lucene wrote only {count} of {expected} passages (is the disk full?)")
