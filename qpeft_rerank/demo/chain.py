"""`qpeft demo`: index, search, train, rerank, evaluate on the packaged collection with the packaged model,
told as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qpeft_rerank.bm25 import build_index, search
from qpeft_rerank.collection import Collection, load_collection
from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation, evaluate
from qpeft_rerank.fusion import FusionConfig, fuse
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.passages import Passage, Passages, open_passages
from qpeft_rerank.plots import plot_topic_differences
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.report import format_report
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import rerank
from qpeft_rerank.topics import read_topics
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.loop import Listener, train
from qpeft_rerank.trec import load_run, read_qrels, read_run, write_run

COLLECTION = Path(__file__).parent / "collection" / "collection.toml"
HITS = 20  # of 192 passages
MEASURES = ["nDCG@10", "RR@10", "Success@1", "R@10"]
TRAINED = {"qpeft-r": AdapterConfig(method="qpeft-r"), "qpeft-a": AdapterConfig(method="qpeft-a")}
TRAINING = TrainingConfig(
    train_topics=0, dev_topics=0, batch_size=4, epochs=3, patience=2, learning_rate=1e-3
)
SHOWN_PASSAGES = 4
MARKER = ".qpeft-demo"  # written before all else: the folder may be used again, even after a kill


@dataclass(frozen=True)
class _Data:
    """The packaged collection, read."""

    collection: Collection
    passages: Passages

    def topics(self, split: str) -> dict[str, str]:
        return read_topics(self.collection.topics_of(split))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        return read_qrels(self.collection.qrels_of(split))


def run_demo(output: str | Path, listener: Listener | None = None) -> Iterator[str]:
    """Run the whole chain offline; yields its story piece by piece, each ending in a newline.

    Args:
        output: a folder that is new, empty, or holds an earlier demo: index, runs, adapters, tables and
            pictures go there.
        listener: hears of the steps and epochs of the trainings.

    Raises:
        InputError: the folder is taken. DependencyError: no Java.
    """
    folder = _prepare(Path(output))
    began = time.monotonic()
    collection = load_collection(COLLECTION)
    data = _Data(collection, open_passages(corpus=collection.required("corpus")))

    count = build_index(data.collection.required("corpus"), folder / "index", overwrite=True)
    yield f"index     {count} passages, 32 themes of 6 -> {folder / 'index'}\n"
    runs = {split: folder / f"run.demo.bm25.{split}.txt" for split in ("train", "dev", "test")}
    for split, path in runs.items():
        write_run(search(folder / "index", data.topics(split), hits=HITS), path, "bm25")
    yield f"bm25      {HITS} candidates for each topic of train, dev and test -> {runs['test']}\n"

    base = load_base("demo", dtype="float32", device="cpu")  # the same table on every machine
    systems = {"bm25": runs["test"]}
    systems |= _rerank(Reranker.from_model(base), data, folder, runs["test"])
    yield f"rerank    by the plain likelihood of the query (hard prompt) -> {systems['hard-prompt']}\n"
    for method, settings in TRAINED.items():
        adapter = folder / f"adapter.{method}"
        counts = len(data.topics("train")), len(data.topics("dev"))
        yield f"train     {method} on {counts[0]} topics, epoch chosen on {counts[1]} others ...\n"
        record = train(
            base,
            settings,
            TRAINING,
            _judged(data, "train", runs),
            data.passages,
            adapter,
            _judged(data, "dev", runs),
            listener=listener,
        )
        yield f"          best epoch {record['best_epoch']} of {len(record['epochs']) - 1} -> {adapter}\n"
        systems |= _rerank(Reranker.from_adapter(str(adapter), base=base), data, folder, runs["test"])
        yield f"rerank    by {method} -> {systems[method]}\n"
    systems = dict(sorted(systems.items(), key=lambda item: "+" in item[0]))  # each alone first

    evaluations = [evaluate(path, data.qrels("test"), MEASURES) for path in systems.values()]
    table = format_report(evaluations)
    (folder / "evaluation.txt").write_text(table, encoding="utf-8")
    plot_topic_differences(evaluations[0], evaluations[-1], "nDCG@10", folder / "differences.png")
    written = f"{folder / 'evaluation.txt'}, {folder / 'differences.png'}"
    yield f"evaluate  {evaluations[0].judged} test topics -> {written}\n\n{table}\n"
    yield from _one_topic(data, folder, base, systems, evaluations)
    yield (
        "\nThe packaged model is tiny (3 million parameters). Compare the trained rows with hard-prompt,\n"
        "the same model without hints. The rows bm25+ interpolate a model's scores with BM25's, as\n"
        "`qpeft rerank` does by default: the weights of the trained ones were chosen on the dev topics.\n"
    )
    yield f"\nDone in {time.monotonic() - began:.0f} s. All files are in {folder}.\n"


def _prepare(folder: Path) -> Path:
    """Make the folder; in one of an earlier demo, remove what is made anew."""
    import shutil

    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).exists())
    ):
        raise InputError(f"{folder} is there already and holds no earlier demo: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for path in folder.iterdir():
        if path.name.startswith("adapter."):
            shutil.rmtree(path)
        elif path.name.startswith("run.demo.") and not path.name.startswith("run.demo.bm25."):
            path.unlink()
    return folder


def _judged(data: _Data, split: str, runs: Mapping[str, Path]) -> TrainingData:
    return TrainingData(read_run(runs[split]), data.topics(split), data.qrels(split))


def _rerank(reranker: Reranker, data: _Data, folder: Path, run: Path) -> dict[str, Path]:
    """Two runs: by the model alone, and with its weight beside BM25. The model's scores are made once."""
    method = reranker.scorer.config.method
    alone, both = (folder / f"run.demo.{name}.test.txt" for name in (method, f"bm25+{method}"))
    topics = data.topics("test")
    write_run(rerank(read_run(run), topics, data.passages, reranker, depth=HITS, weight=1.0), alone, method)
    weights = (1 - reranker.weight, reranker.weight)
    fusion = FusionConfig("interpolation", "z-score", weights=weights)
    write_run(fuse([read_run(run), read_run(alone)], fusion), both, f"bm25+{method}")
    return {method: alone, f"bm25+{method}": both}


def _one_topic(
    data: _Data, folder: Path, base: BaseModel, systems: Mapping[str, Path], evaluations: list[Evaluation]
) -> Iterator[str]:
    """The topic that Q-PEFT-A helps BM25 most with, before and after, with the hints of its first passage."""
    before, after = evaluations[0].per_topic, evaluations[-1].per_topic
    qid = max(before, key=lambda q: after[q]["nDCG@10"] - before[q]["nDCG@10"])
    query, grades = data.topics("test")[qid], data.qrels("test")[qid]
    rankings: dict[str, Ranking] = {name: load_run(path)[qid] for name, path in systems.items()}
    texts = data.passages.get(
        [doc.docid for ranking in rankings.values() for doc in ranking.docs[:SHOWN_PASSAGES]]
    )
    yield f"The topic where Q-PEFT-A helps BM25 most, {qid}: {query}\n(a star marks relevant passages)\n"
    for name in ("bm25", "bm25+qpeft-a"):
        yield f"\n{'before' if name == 'bm25' else 'after '}    {name}\n"
        yield "".join(
            _line(place, doc, texts[doc.docid], grades)
            for place, doc in enumerate(rankings[name].docs[:SHOWN_PASSAGES], 1)
        )
    best = texts[rankings["bm25+qpeft-a"].docs[0].docid]
    for method in TRAINED:
        why = Reranker.from_adapter(str(folder / f"adapter.{method}"), base=base).explain(query, best)
        yield f"\nhints     {method} for {best.docid}: {' '.join(why.hints) or '(none)'}\n"
    words = " ".join(f"{token} {value:.1f}" for token, value in why.tokens)
    yield f"          log-likelihood of each query token: {words}\n"


def _line(place: int, doc: ScoredDoc, passage: Passage, grades: Mapping[str, int]) -> str:
    star = "*" if grades.get(doc.docid, 0) > 0 else " "
    return f"  {place} {star} {doc.score:8.3f}  {doc.docid}  {passage.title}: {passage.text[:70]}...\n"
