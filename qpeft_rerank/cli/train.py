"""Train an adapter: relevant passages come from the qrels, hard negatives from the run's first candidates.

The base model stays as it is. With a development run, the best epoch is chosen by its loss or by a measure,
and training stops early. The output is an adapter folder for `qpeft rerank --adapter`, with the record and
the curves of the training. With -c, topics and qrels are those of the split train, and for development those
of the split dev.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qpeft_rerank.cli.missing import Missing
from qpeft_rerank.cli.options import Verb, configuration, option
from qpeft_rerank.cli.shared_options import (
    CollectionOptions,
    InputRunOptions,
    ModelOptions,
    PassageOptions,
    QrelsOptions,
    TopicsOptions,
)
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.settings import MISSING
from qpeft_rerank.training.config import TrainingConfig

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passages
    from qpeft_rerank.training.data import TrainingData
    from qpeft_rerank.training.loop import Listener

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DevelopmentOptions(CollectionOptions):
    """What the best epoch is chosen by."""

    title: ClassVar[str] = "development"

    dev_run: str | None = option(
        None,
        "run of the development topics; without it all epochs are trained and the last is kept",
        metavar="RUN",
    )
    dev_topics_file: str | None = option(
        None, "topics of the development run (default: the collection's, else --topics)", metavar="TOPICS"
    )
    dev_qrels: str | None = option(
        None, "qrels of the development run (default: the collection's, else --qrels)"
    )
    dev_split: str = option("dev", "split of the collection for development")
    depth: int = option(100, "passages of each development topic that are reranked", least=1)


@dataclass(kw_only=True)
class TrainOptions(
    InputRunOptions, ModelOptions, DevelopmentOptions, PassageOptions, QrelsOptions, TopicsOptions
):
    """Flags of `qpeft train`."""

    default_split: ClassVar[str] = "train"

    split: str | None = option(None, "split of the collection to train on (default: train)")
    output: str | None = option(None, "adapter folder to make", metavar="DIR")
    missing: str = option(
        "error",
        "what to do if a topic or passage has no text: stop, or go on without it and report",
        choices=MISSING,
    )
    resume: bool = option(False, "go on with a training that was not finished")
    settings: AdapterConfig = configuration(AdapterConfig, "method")
    training: TrainingConfig = configuration(TrainingConfig, "training")

    def development(self, data: TrainingData) -> TrainingData | None:
        """The development run with its topics and qrels, where a run is named."""
        from qpeft_rerank.topics import read_topics
        from qpeft_rerank.training.data import TrainingData

        if self.dev_run is None:
            return None
        topics, qrels = self.development_sources()
        return TrainingData(
            self.dev_run,
            read_topics(topics) if topics else data.topics,
            qrels or data.qrels,
        )

    def development_sources(self) -> tuple[str | None, str | None]:
        """File or name of the development topics and qrels; None: those of the training."""
        collection = self.load()
        return (
            self.dev_topics_file or (collection.topics_of(self.dev_split) if collection else None),
            self.dev_qrels or (collection.qrels_of(self.dev_split) if collection else None),
        )

    def sources(self, run: str, passages: Passages) -> dict[str, Any]:
        """Where all data come from, for the record of the training."""
        collection = self.load()
        named = {
            "run": run,
            "topics": self.topics_source(),
            "qrels": self.qrels_source(),
            "passages": passages.name,
        }
        if collection is not None:
            named |= {"collection": collection.name, "split": self.chosen_split}
        if self.dev_run is not None:
            topics, qrels = self.development_sources()
            named |= {"dev_run": self.dev_run, "dev_topics": topics, "dev_qrels": qrels}
        return named


def run(options: TrainOptions) -> None:
    """Train and say where the adapter is."""
    if options.model is None:
        raise InputError("no model given: name one with --model")
    if options.output is None:
        raise InputError("no output given: name the adapter folder with --output")
    if not options.settings.trainable:
        method = options.settings.method
        raise InputError(f"--method {method} has nothing to train, but for a LoRA: give it with --lora-rank")
    training = options.training.for_method(options.settings.method, options.settings.prompt_alone)
    training.check_development(options.dev_run is not None)
    source = options.run_source()

    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.models.base import load_base
    from qpeft_rerank.training.data import TrainingData
    from qpeft_rerank.training.folder import check_folder
    from qpeft_rerank.training.loop import train

    check_folder(options.output, options.resume)
    data = TrainingData(source, options.read_topics(), options.qrels_source())
    dev = options.development(data)
    if dev is None:
        _log.info("no --dev-run: all %d epochs are trained and the last one is kept", options.training.epochs)
    passages = options.open_passages()
    base = load_base(options.model, output_layer=options.settings.is_likelihood, **options.base_options())
    missing = Missing("skipped %d topics and %d passages")
    with progress_bar("train", " steps") as bar:
        record = train(
            base,
            options.settings,
            training,
            data,
            passages,
            options.output,
            dev,
            options.resume,
            options.depth,
            replace(log_progress(bar), on_missing=missing.add),
            options.sources(source, passages),
            options.missing,
        )
    missing.report()
    weight = record.get("dev", {}).get("weight")
    _log.info(
        "%s: %s with %s trained parameters, epoch %s%s",
        options.output,
        options.settings.method,
        f"{record['trained_parameters']:,}",
        record["best_epoch"],
        "" if weight is None else f", weight {weight:.2f} beside the first stage",
    )


def log_progress(bar: Any) -> Listener:
    """Steps on the bar, a line for each epoch."""
    from qpeft_rerank.training.loop import Listener

    def on_step(step: int, steps: int, loss: float) -> None:
        bar.total = steps
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    def on_resume(step: int) -> None:
        bar.initial = bar.n = step  # the time estimate is of what is left
        _log.info("going on after step %d", step)

    def on_epoch(facts: Mapping[str, Any]) -> None:
        figures = {
            "loss": facts.get("train_loss"),
            "development loss": facts.get("dev_loss"),
            **facts.get("dev", {}),
        }
        text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
        if text:  # before the first step there is none where nothing is measured
            _log.info("epoch %d: %s%s", facts["epoch"], text, " (best so far)" if facts.get("best") else "")

    return Listener(on_step, on_epoch, on_resume)


VERB = Verb(
    __doc__,
    "  qpeft train run.bm25.train.txt -c squad.toml --dev-run run.bm25.dev.txt --model demo \\\n"
    "      --method qpeft-a --output adapter",
    TrainOptions,
    run,
)
