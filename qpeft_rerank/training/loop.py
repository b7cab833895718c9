"""The training loop: run + topics + qrels -> adapter folder. One reads it from top to bottom.

`accelerate` carries it to several GPUs and nodes (`torchrun`, `accelerate launch`) and does mixed precision.
It is a loop of our own rather than transformers' Trainer because a step is a matrix of topics and passages,
not a list of rows, the best epoch is chosen by a reranked development run, and a checkpoint is safetensors
and JSON (the Trainer's is a pickle).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from qpeft_rerank.errors import InputError, one_line
from qpeft_rerank.files import atomic_write
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.lora import put_to_work
from qpeft_rerank.passages import Passages
from qpeft_rerank.record import run_record
from qpeft_rerank.settings import MISSING
from qpeft_rerank.training.activations import activations_recomputed, recomputable_layers
from qpeft_rerank.training.checkpoint import remove_checkpoint
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.development import Choice, Development
from qpeft_rerank.training.folder import CHECKPOINT, CURVES_FILE, RECORD_FILE, card_facts, check_folder
from qpeft_rerank.training.groups import Group, epoch_groups, once, stop, training_topics, with_passages
from qpeft_rerank.training.objective import Objective, make_objective
from qpeft_rerank.training.state import State, begin_or_resume, from_main, save_state
from qpeft_rerank.training.step import check_finite, memory_told

# The main process measures a development run alone while the others wait; by itself torch gives up sooner.
LONGEST_WAIT = timedelta(hours=12)


@dataclass
class Listener:
    """What `train` tells of its progress, and of texts that are skipped; every field may be left out."""

    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda facts: None
    on_resume: Callable[[int], None] = lambda step: None
    on_missing: Callable[[InputError], None] = lambda error: None


def train(
    base: BaseModel,
    settings: AdapterConfig,
    training: TrainingConfig,
    data: TrainingData,
    passages: Passages,
    output: str | Path,
    dev: TrainingData | None = None,
    resume: bool = False,
    depth: int = 100,
    listener: Listener | None = None,
    sources: Mapping[str, Any] | None = None,
    missing: str = "error",
) -> dict[str, Any]:
    """Train an adapter and write its folder.

    The folder always holds the best adapter so far, and a checkpoint until the training is done. At the end
    it holds the adapter with its card, `training.json` (returned too), and with ``dev`` the curves
    (`training.png`) and the development run of the best epoch (`run.dev.txt`).

    Args:
        base: the frozen model.
        settings: the adapter's settings.
        training: the training's settings.
        data: run, topics and qrels to learn from.
        passages: texts of the candidates and of the relevant passages.
        output: the adapter folder to write.
        dev: run, topics and qrels that choose the best epoch; without it, the last epoch is kept.
        resume: go on from the folder's checkpoint.
        depth: how many candidates of a development topic are reranked.
        listener: hears of steps, epochs, and what is skipped.
        sources: where the data come from, JSON-ready (``run``, ``collection`` ...): for the record and the
            model card, and a condition of resuming.
        missing: ``error``, or ``skip``: of the sampled topics, passages without text are left out, and topics
            without text, or without a positive or a negative that has one.

    Raises:
        MissingTopicError, MissingPassageError: as they say.
        InputError: there is nothing to train or to learn from, nothing to choose the epoch by as ``training``
            says, memory does not do for a step, a loss or weight is no longer finite, or the folder cannot be
            written or holds a training that is not to be resumed.
    """
    if not settings.trainable:
        raise InputError(f"method {settings.method!r} has nothing to train")
    training = training.for_method(settings.method, settings.prompt_alone)
    training.check_development(dev is not None)
    check_folder(output, resume)
    torch.manual_seed(training.seed)  # initial weights, the same in every process
    objective = make_objective(base, settings, passages, training)
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is neither 'error' nor 'skip'")
    on_missing = once((listener or Listener()).on_missing) if missing == "skip" else stop
    sample = training_topics(
        data.run,
        data.topics,
        data.qrels,
        training.train_topics,
        training.seed,
        training.negative_depth,
        training.relevance_level,
        on_missing,
    )
    topics = with_passages(sample, passages, on_missing)
    measured = None if dev is None else Development(dev, passages, training, depth, on_missing)
    chosen = {
        "topics": [t.qid for t in topics],
        "depth": depth,
        "development_topics": [] if measured is None else [t.qid for t in measured.topics],
    }

    def groups(epoch: int) -> list[Group]:
        return epoch_groups(topics, training.negatives, training.seed, epoch)

    return fit(objective, training, groups, output, measured, listener, sources, chosen)


def fit(
    objective: Objective,
    training: TrainingConfig,
    examples: Callable[[int], Sequence[Any]],
    output: str | Path,
    dev: Choice | None = None,
    listener: Listener | None = None,
    sources: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The loop itself, for any model that learns from examples: steps, epochs, checkpoints, the best epoch.

    Args:
        objective: the model and its loss.
        training: the training's settings.
        examples: those of an epoch (from 1), the same number in each; a step takes ``batch_size`` of them.
        output: the folder to write, checked before (`folder.check_folder`).
        dev: chooses the best epoch; without it, the last one is kept.
        listener, sources: as in `train`.
        chosen: what else a resumed training must have been begun with, JSON-ready.

    Returns:
        The record, as it is written.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import GradientAccumulationPlugin

    listener, output, started = listener or Listener(), Path(output), time.monotonic()
    sources, scorer = sources or {}, objective.scorer
    base = scorer.base
    put_to_work(base.model, scorer.lora)  # others on this base take no gradient now
    try:
        accelerator = Accelerator(
            cpu=base.device.type == "cpu",
            mixed_precision=training.mixed_precision,
            # Said outright: an environment variable of accelerate's would scale the loss otherwise.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
    except ValueError as error:  # not possible on this device, or the process trained otherwise before
        raise InputError(f"mixed_precision: {one_line(error)}") from error
    forgetful = recomputable_layers(base.model) if training.checkpoint_activations else []
    if forgetful:  # computed again, a layer would add to a shared passage's keys and values twice
        scorer.can_share = False
    weights = scorer.trained_parameters()
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=training.weight_decay)  # a rate at each step
    optimizer = accelerator.prepare(optimizer)  # undoes the loss scale of fp16
    model = objective.module
    if accelerator.num_processes > 1:
        model = accelerator.prepare(model)
    everything = {
        "adapter": scorer.config.to_dict(),
        "training": asdict(training),
        "base_model": base.describe(),
        "base_sha256": base.sha256(),
        "processes": accelerator.num_processes,
        "sources": dict(sources),
        **(chosen or {}),
    }
    state = begin_or_resume(output, everything, weights, optimizer, accelerator.scaler)
    if state.step:
        listener.on_resume(state.step)
    saved = state.step
    rows, me = training.batch_size, accelerator.process_index
    per_step = rows * accelerator.num_processes
    steps_per_epoch = -(-len(examples(1)) // per_step)

    def save() -> None:
        save_state(output, state, everything, weights, optimizer, started, accelerator.scaler)

    if state.step == 0 and not state.epochs and accelerator.is_main_process:
        if dev is not None:  # the folder gets an adapter now, and a checkpoint says that it is not trained
            save()
        _finish_epoch(state, 0, None, dev, objective, training, output, listener, sources)
    for epoch in range(state.step // steps_per_epoch + 1, training.epochs + 1):
        if _patience_is_over(state, training, dev):
            break
        every = examples(epoch)
        for place in range(state.step % steps_per_epoch, steps_per_epoch):
            all_of_step = every[place * per_step :][:per_step]
            mine = all_of_step[me * rows :][:rows]
            # The mean over processes is to be one over examples; one without any takes part for nothing.
            share = len(mine) * accelerator.num_processes / len(all_of_step)
            mine = mine or every[:1]
            first = place - place % training.accumulate  # the epoch's last update may have fewer steps
            together = min(training.accumulate, steps_per_epoch - first)
            torch.manual_seed(_seed(training.seed, state.step, me))  # dropout, the same when resumed
            scorer.train()
            with memory_told(rows), activations_recomputed(forgetful):
                with accelerator.autocast():
                    loss = objective.loss(model, mine)
                accelerator.backward(loss * share / together)
            state.step += 1
            check_finite([loss], f"the loss of step {state.step}")
            last = place + 1 == steps_per_epoch
            if updates := (place + 1) % training.accumulate == 0 or last:
                if training.clip:
                    accelerator.clip_grad_norm_(weights.values(), training.clip)
                for group in optimizer.param_groups:
                    group["lr"] = training.learning_rate_at(state.step - 1, steps_per_epoch * training.epochs)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            state.loss_sum, state.loss_steps = state.loss_sum + loss.item(), state.loss_steps + 1
            listener.on_step(state.step, steps_per_epoch * training.epochs, loss.item())
            due = training.checkpoint_steps and state.step - saved >= training.checkpoint_steps
            if due and updates and not last and accelerator.is_main_process:
                check_finite(weights.values(), f"a weight after step {state.step}")
                save()
                saved = state.step
        if accelerator.is_main_process:
            check_finite(weights.values(), f"a weight after step {state.step}")
            mean = state.loss_sum / state.loss_steps
            _finish_epoch(state, epoch, mean, dev, objective, training, output, listener, sources)
        state = from_main(state, accelerator)
        state.loss_sum, state.loss_steps = 0.0, 0
        if accelerator.is_main_process:
            save()
        saved = state.step
    record = {
        **run_record(everything),
        "epochs": state.epochs,
        "best_epoch": state.best_epoch,
        "trained_parameters": sum(p.numel() for p in weights.values()),
        "seconds": round(state.seconds + time.monotonic() - started, 1),
    }
    if accelerator.is_main_process:
        _write_results(output, record, objective, dev)
    accelerator.wait_for_everyone()
    return record


def _finish_epoch(
    state: State,
    epoch: int,
    train_loss: float | None,
    dev: Choice | None,
    objective: Objective,
    training: TrainingConfig,
    output: Path,
    listener: Listener,
    sources: Mapping[str, Any],
) -> None:
    """Measure on the development data, note it, keep the adapter if it is the best so far."""
    facts: dict[str, Any] = {"epoch": epoch, "train_loss": train_loss}
    better = dev is None and epoch > 0
    if dev is not None:
        facts["dev_loss"] = dev.loss(objective)
        check_finite([torch.tensor(facts["dev_loss"])], f"the development loss of epoch {epoch}")
        if training.select != "loss":
            facts["dev"] = dev.measure(objective)
        value = -facts["dev_loss"] if training.select == "loss" else facts["dev"][training.select]
        better = state.best_value is None or value > state.best_value
        if better:
            state.best_value = value
    if better:
        state.best_epoch = epoch
        objective.save(output, card_facts(training, facts, sources))
    state.epochs.append(facts)
    listener.on_epoch({**facts, "best": better})


def _patience_is_over(state: State, training: TrainingConfig, dev: Choice | None) -> bool:
    return (
        dev is not None
        and state.best_epoch is not None
        and state.epochs[-1]["epoch"] - state.best_epoch >= training.patience
    )


def _write_results(output: Path, record: dict[str, Any], objective: Objective, dev: Choice | None) -> None:
    if dev is not None:
        from qpeft_rerank.plots import plot_training

        objective.restore(output)
        record["dev"] = dev.write(objective, output)
        plot_training(record, output / CURVES_FILE)
    with atomic_write(output / RECORD_FILE) as stream:
        json.dump(record, stream, indent=2, ensure_ascii=False, allow_nan=False)
    remove_checkpoint(output / CHECKPOINT)


def _seed(seed: int, step: int, process: int) -> int:
    return (seed * 1_000_003 + step) * 1_009 + process
