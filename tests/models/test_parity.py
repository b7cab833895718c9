"""Our `published` layout gives the numbers that the published research code gives (tests/parity/README.md).

The small set runs everywhere; a larger one, over SQuAD texts that are not distributed, where it is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from qpeft_rerank.models import published
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import FILTERS, AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passage
from qpeft_rerank.training.loss import pairwise_hinge

HERE = Path(__file__).parent.parent
SETS = {
    "portable": HERE / "parity",
    "large": Path(os.environ.get("QPEFT_PARITY", HERE.parent.parent / "shared" / "parity")),
}
METHODS = {1: "token", 2: "vocab", 3: "qpeft-r", 4: "qpeft-a"}
LETTERS = dict(zip("dqsa", FILTERS, strict=True))
LOSS, WEIGHT = 5e-5, 1e-4
# Parameters and modules of the published code under our names.
PARAMETERS = {"embedding.weight": "prompt.embedding", "docspec_embeddings.weight": "hints.table.embedding"}
MODULES = {
    "spt_multi_layers.": "prompt.mlp.",
    "doc_multi_layers.": "hints.mlp.",
    "docspec_attention.": "hints.attention.",
}


class ParitySet(NamedTuple):
    folder: Path
    base: BaseModel
    cases: dict[int, dict]

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def likelihood(self, flags: dict, adapter: str | list[str], fixed_prompt: str = "") -> QueryLikelihood:
        scorer = QueryLikelihood(self.base, settings(flags, fixed_prompt))
        parts = (
            [adapter] if isinstance(adapter, str) else adapter
        )  # an adapter is one file or a list of part files
        weights = {k: v for part in parts for k, v in load_file(self.folder / "adapters" / part).items()}
        ours = {our_name(name): weight for name, weight in weights.items()}
        parameters = scorer.trained_parameters()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(ours.pop(name))
        unused = {"prompt.embedding"} | (
            {"hints.table.embedding"} if flags.get("fix_docspec_embed") else set()
        )
        assert set(ours) <= unused, "every weight of the adapter has its place"
        return scorer


def our_name(name: str) -> str:
    """Our name of a parameter of the published code."""
    module = next((module for module in MODULES if name.startswith(module)), None)
    return PARAMETERS[name] if module is None else MODULES[module] + name.removeprefix(module)


def settings(flags: dict[str, Any], fixed_prompt: str = "") -> AdapterConfig:
    """The published flags as ours."""
    method = (
        METHODS[flags.get("exp_mode", 1)]
        if flags.get("docspec")
        else ("soft-prompt" if flags.get("spt") else "hard-prompt")
    )
    letters = flags.get("exp_filter_mode", "d")
    return AdapterConfig(
        method=method,
        layout="published",
        passage_format="text+title",
        fixed_prompt=fixed_prompt,
        prompt=flags.get(
            "prompt_tuning_init_text", "given the hints, please generate a question for the input passage"
        ),
        soft_prompt=flags.get("spt", False),
        prompt_layers=flags.get("spt_layer_num", 0),
        k=flags.get("exp_k", 1),
        heads=flags.get("exp_head_num", 0) or 1,
        placement=flags.get("exp_loc", "suffix"),
        similarity="cosine" if flags.get("exp_normalize") else "dot",
        filters=tuple(LETTERS[letter] for letter in letters if letter in LETTERS),
        hint_layers=0 if flags.get("fix_docspec_embed") else flags.get("docspec_layer_num", 0),
        hint_table="frozen" if flags.get("fix_docspec_embed") else "trained",
        hint_prefix=flags.get("exp_prompt", "hints") + ": ",
    )


@pytest.fixture(scope="module", params=list(SETS))
def parity(request: pytest.FixtureRequest) -> ParitySet:
    folder = SETS[request.param]
    if not folder.is_dir():
        pytest.skip(f"no {request.param} parity set here")
    base = load_base(str(folder / "model"), dtype="float32", device="cpu")
    found = ParitySet(folder, base, {})
    for number, case in enumerate(found.lines("cases.jsonl")):
        found.cases[case.get("case", number)] = case
    return found


def pair(case: dict) -> tuple[str, Passage]:
    return case["query"], Passage("d", case["title"], case["text"])


@torch.inference_mode()
def test_losses_and_hints_are_the_published_ones(parity: ParitySet) -> None:
    wrong, compared = [], 0
    for line in parity.lines("expected.jsonl"):
        scorer = parity.likelihood(line["flags"], line["adapter"], line["fixed_prompt"])
        for result in line["results"]:
            inputs = scorer.encoder.encode([pair(parity.cases[result["case"]])])
            batch = collate(inputs, scorer.encoder.pad)
            where = f"{line['id']}, case {result['case']}"
            if result["exact"]:
                compared += 1
                loss = -scorer(batch).item()
                if not abs(loss - result["loss"]) <= LOSS:
                    wrong.append(f"{where}: loss {loss} is not {result['loss']}")
            if scorer.hints is None:
                continue
            hints = scorer.hints(batch.pairs)
            ids = (
                torch.where(
                    hints.ids < 0,
                    torch.cat(
                        [
                            hints.ids[:, : len(scorer.encoder.hint_head)],
                            batch.pairs.query_ids,
                            hints.ids[:, : len(scorer.encoder.hint_tail)],
                        ],
                        1,
                    ),
                    hints.ids,
                )[0][hints.mask[0]].tolist()
                if line["method"] == "a"
                else hints.ids[0][hints.mask[0]].tolist()
            )
            head = len(scorer.encoder.hint_head)
            if result["exact"]:
                if ids != result["hint_ids"]:
                    wrong.append(f"{where}: hints {ids} are not {result['hint_ids']}")
                norm = hints.vectors[0][hints.mask[0]].norm().item()
                if abs(norm - result["hint_l2"]) > WEIGHT * result["hint_l2"]:
                    wrong.append(f"{where}: hint norm {norm} is not {result['hint_l2']}")
            elif "sure" in result and not result.get("random"):
                sure = head + result["sure"]
                if ids[:sure] != result["hint_ids"][:sure]:
                    wrong.append(f"{where}: sure hints {ids[:sure]} are not {result['hint_ids'][:sure]}")
            if "n_keys" in result and int(batch.pairs.candidate.sum()) != result["n_keys"]:
                wrong.append(f"{where}: {int(batch.pairs.candidate.sum())} keys are not {result['n_keys']}")
    assert not wrong, f"{len(wrong)} differences, such as " + "; ".join(wrong[:3])
    assert compared > 400


@torch.inference_mode()
def test_losses_in_batches_of_four_are_the_published_ones(parity: ParitySet) -> None:
    wrong, compared = [], 0
    for line in parity.lines("expected.jsonl"):
        scorer = parity.likelihood(line["flags"], line["adapter"], line["fixed_prompt"])
        results = {r["case"]: r for r in line["results"]}
        for first in range(0, max(results) + 1, 4):
            four = [c for c in range(first, first + 4) if c in parity.cases]
            if len(four) < 4:
                continue  # a set without all four cases cannot repeat the batch
            losses = -scorer(
                collate(scorer.encoder.encode([pair(parity.cases[c]) for c in four]), scorer.encoder.pad)
            )
            for case, loss in zip(four, losses.tolist(), strict=True):
                if case in results and results[case]["exact_batch"]:
                    compared += 1
                    if not abs(loss - results[case]["loss_batch"]) <= LOSS:
                        wrong.append(
                            f"{line['id']}, case {case}: {loss} is not {results[case]['loss_batch']}"
                        )
    assert not wrong, f"{len(wrong)} differences, such as " + "; ".join(wrong[:3])
    assert compared > 400


@torch.inference_mode()
def test_token_rows_and_token_losses_are_the_published_ones(parity: ParitySet) -> None:
    scorer = parity.likelihood({}, [])
    for line in parity.lines("layout.jsonl"):
        inputs = scorer.encoder.encode([pair(parity.cases[line["case"]])])
        prompt = len(scorer.encoder.bos + scorer.encoder.prompt)
        row = (inputs[0].before + inputs[0].after)[prompt:]
        assert row == line["input_ids"] and row[-inputs[0].scored :] == line["scored_ids"]
        losses = -scorer.token_log_likelihoods(collate(inputs, scorer.encoder.pad))
        assert torch.allclose(losses, torch.tensor(line["token_losses"]), atol=LOSS, rtol=0)


def test_the_blacklists_are_the_published_ones(parity: ParitySet) -> None:
    letterless, stopwords = published.blacklists(parity.base.tokenizer)
    expected = json.loads((parity.folder / "token_filter.json").read_text())
    assert sorted(letterless) == expected["non_alphabetic_keys"]
    assert sorted(stopwords) == expected["stopword_keys"]


def test_the_hint_filter_follows_the_published_rules(parity: ParitySet) -> None:
    for rule in parity.lines("filter_rules.jsonl"):
        flags = {
            "docspec": True,
            "exp_mode": rule["exp_mode"],
            "exp_k": rule["k"],
            "exp_filter_mode": rule["filter_mode"],
            "fix_docspec_embed": True,
        }
        block = QueryLikelihood(parity.base, settings(flags)).hints
        assert block.filter_ids(rule["candidates"], rule["query_ids"]) == rule["kept"]
        if rule["picked"] is not None:
            assert block.choose(rule["candidates"], rule["query_ids"]) == rule["picked"]


def training_rows(training: dict) -> list[tuple[str, Passage]]:
    """The rows of the published collate function, as pairs."""

    def text(name: str) -> str:
        kind, number = name[:3] if name[:3] != "har" else "hard", int(name[-1])
        key = {"pos": "positive_ctxs", "hard": "hard_negative_ctxs", "neg": "negative_ctxs"}[kind]
        context = training["data"][number][key][0]
        joined = context["title"] + context["text"]
        return joined.strip() if kind == "pos" else joined

    return [
        (training["data"][q]["question"].replace("\u2019", "'"), Passage(name, "", text(name)))
        for q, name in training["row_order"]
    ]


def test_three_training_steps_are_the_published_ones(parity: ParitySet) -> None:
    training = json.loads((parity.folder / "training.json").read_text())
    rows = training_rows(training)
    for run in training["runs"]:
        scorer = parity.likelihood(run["flags"], run["adapter"])
        parameters = scorer.trained_parameters()
        start = {name: p.detach().clone() for name, p in parameters.items()}
        batches = [collate(scorer.encoder.encode(rows[i : i + 4]), scorer.encoder.pad) for i in (0, 4, 8)]

        def losses(batch: Any, scorer: QueryLikelihood = scorer) -> torch.Tensor:
            return -scorer(batch)

        static = run["static_first_minibatch"]
        with torch.no_grad():
            first = losses(batches[0])
            assert torch.allclose(first, torch.tensor(static["per_pair"]), atol=LOSS, rtol=0)
            for key, expected in static.items():
                if key.startswith("pairwise_v2_margin_"):
                    loss = pairwise_hinge(first[0::2], first[1::2], float(key.rpartition("_")[2]))
                    assert abs(loss.item() - expected) <= LOSS, (run["id"], key)
        optimizer = torch.optim.AdamW(parameters.values(), lr=training["lr"])
        scorer.train()
        if scorer.hints is not None and hasattr(scorer.hints, "attention"):
            scorer.hints.attention.dropout = 0.0
        for step, (batch, expected) in enumerate(zip(batches, run["steps"], strict=True)):
            pair_losses = losses(batch)
            loss = pairwise_hinge(pair_losses[0::2], pair_losses[1::2], run["margin"])
            assert abs(loss.item() - expected["loss"]) <= LOSS, (run["id"], step)
            assert torch.allclose(pair_losses, torch.tensor(expected["per_pair"]), atol=LOSS, rtol=0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if step == 0:
                for name, gradient in published_parts(
                    {n: p.grad for n, p in parameters.items() if p.grad is not None}
                ):
                    close(gradient.norm(), expected["grad_l2"][name], f"{run['id']}: gradient of {name}")
            optimizer.step()
        moved = dict(published_parts({name: p.detach() - start[name] for name, p in parameters.items()}))
        for name, after in published_parts({name: p.detach() for name, p in parameters.items()}):
            expected, where = run["after"][name], f"{run['id']}: {name} after training"
            close(after.norm(), expected["l2"], where)
            close(moved[name].norm(), expected["moved_l2"], where)
            assert torch.allclose(after.flatten()[:8], torch.tensor(expected["head"]), atol=WEIGHT), where
        scorer.eval()
        with torch.no_grad():
            for batch, expected in zip(batches, run["eval_after"], strict=True):
                assert torch.allclose(losses(batch), torch.tensor(expected), atol=LOSS, rtol=0), run["id"]


PUBLISHED_NAMES = {
    "prompt.embedding": "embedding.weight",
    "hints.table.embedding": "docspec_embeddings.weight",
}
PUBLISHED_MODULES = {
    "prompt.mlp": "spt_multi_layers",
    "hints.mlp": "doc_multi_layers",
    "hints.attention": "docspec_attention",
}


def published_parts(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Our tensors under their published names.

    The keys' part of the attention bias is left out: a softmax does not see it.
    """
    for name, tensor in tensors.items():
        for ours, theirs in PUBLISHED_MODULES.items():
            name = name.replace(ours, theirs)
        name = PUBLISHED_NAMES.get(name, name)
        if name.endswith("in_proj_bias"):
            q, _, v = tensor.chunk(3)
            yield from ((f"{name}[q]", q), (f"{name}[v]", v))
        else:
            yield name, tensor


def close(ours: torch.Tensor, expected: float, where: str) -> None:
    assert abs(ours.item() - expected) <= WEIGHT * max(abs(expected), 1e-6), (
        f"{where}: {ours.item()} is not {expected}"
    )
