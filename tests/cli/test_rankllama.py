"""LoRA and RankLLaMA from the command line: trained, applied, and never taken for something else."""

import json
import shutil

import pytest

from qpeft_rerank.cli.__main__ import main


def train(*arguments, model, output="adapter"):
    """One epoch with a LoRA of rank 2."""
    common = ["-c", "small.toml", "--epochs", "1", "--lora-rank", "2", "--output", output]
    return main(["train", "run.txt", "--model", model, *common, *arguments])


def rerank(*arguments, output="out.txt"):
    return main(["rerank", "run.txt", "-c", "small.toml", "--output", output, *arguments])


def error(capsys):
    """The one line that tells what is wrong."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if ": error: " in line]
    assert out == "" and len(lines) == 1 and "Traceback" not in err
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hard-prompt", "qpeft-a"])
def test_a_lora_is_trained_with_any_method(collection, tiny_model, capsys, method):
    assert train("--method", method, "--lora-targets", "q_proj,v_proj", model=tiny_model) == 0
    settings = json.loads((collection / "adapter" / "adapter_config.json").read_text())["settings"]
    assert settings["lora_rank"] == 2 and settings["lora_targets"] == ["q_proj", "v_proj"]
    assert rerank("--adapter", "adapter") == 0
    assert (collection / "out.txt").read_text().endswith(f" {method}\n")
    assert rerank("--model", tiny_model, "--lora", "adapter/lora", output="lora.txt") == 0
    record = json.loads((collection / "lora.txt.json").read_text())["settings"]
    assert record["base_model"]["lora"] == "adapter/lora"


@pytest.mark.slow
def test_a_rankllama_is_trained_applied_and_not_taken_for_another(collection, tiny_model, capsys):
    assert train("--method", "rankllama", "--dev-run", "run.txt", model=tiny_model) == 0
    assert rerank("--adapter", "adapter") == 0
    assert (collection / "out.txt").read_text().endswith(" rankllama\n")
    shutil.copytree(collection / "adapter" / "lora", collection / "checkpoint")  # as RankLLaMA's own are
    assert rerank("--adapter", "checkpoint", output="checkpoint.txt") == 0
    capsys.readouterr()
    for arguments, word in (
        (("--adapter", "adapter", "--method", "qpeft-a"), "--method and --adapter"),
        (("--adapter", "adapter", "--prompt", "Read."), "--prompt and --adapter"),
        (("--adapter", "adapter/lora"), "name the folder that it is in"),
        (("--model", tiny_model, "--lora", "adapter"), "it is a RankLLaMA, an adapter by itself"),
        (("--model", tiny_model, "--lora", "checkpoint"), "it is a RankLLaMA, an adapter by itself"),
        (("--model", tiny_model, "--method", "rankllama"), "must be trained"),
    ):
        assert rerank(*arguments, output="wrong.txt") == 2
        assert word in error(capsys) and not (collection / "wrong.txt").exists()
    assert train("--method", "qpeft-a", "--lora", "adapter", model=tiny_model, output="second") == 2
    assert "it is a RankLLaMA" in error(capsys)


WRONG_TRAIN = [
    (["--method", "rankllama", "--prompt", "Read."], "prompt: the method rankllama has no such setting"),
    (["--method", "rankllama", "--k", "3"], "k: the method rankllama has no such setting"),
    (["--method", "rankllama", "--soft-prompt"], "soft_prompt: the method rankllama has no such setting"),
    (["--method", "rankllama", "--margin", "0.5"], "margin: the loss contrastive has none"),
    (["--method", "qpeft-a", "--temperature", "0.5"], "temperature: the loss hinge has none"),
    (["--lora-targets", "c_attn"], "lora_targets: 'c_attn' is no linear layer of a block"),
    (["--lora-rank", "0", "--lora-alpha", "4"], "lora_alpha: needs a lora_rank"),
    (["--lora-rank", "-1"], "--lora-rank: -1 is below 0"),
]


@pytest.mark.parametrize("arguments, word", WRONG_TRAIN, ids=[" ".join(a) for a, _ in WRONG_TRAIN])
def test_a_wrong_setting_is_one_line(collection, tiny_model, capsys, arguments, word):
    assert train(*arguments, model=tiny_model) == 2
    assert word in error(capsys)
    assert not (collection / "adapter").exists()
