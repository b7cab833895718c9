"""Settings are checked as soon as they are made, and survive JSON."""

import json

import pytest

from qpeft_rerank.errors import AdapterError, InputError
from qpeft_rerank.models.config import LIKELIHOOD_METHODS, PROMPT, PROMPT_WITH_HINTS, AdapterConfig


def test_settings_survive_json() -> None:
    for method in LIKELIHOOD_METHODS:
        config = AdapterConfig(method=method, filters=("query", "duplicates"), k=3, prompt="naïve 🦙")
        assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_prompt_fits_the_method() -> None:
    assert AdapterConfig(method="hard-prompt").prompt == PROMPT
    assert AdapterConfig(method="qpeft-r").prompt == PROMPT_WITH_HINTS
    assert AdapterConfig(method="qpeft-r", prompt="").prompt == ""


def test_the_soft_prompt_method_trains_a_soft_prompt_and_hints_can_be_added() -> None:
    assert AdapterConfig(method="soft-prompt").soft_prompt
    both = AdapterConfig(method="qpeft-a", soft_prompt=True)
    assert both.soft_prompt and both.has_hints and both.trainable
    assert not AdapterConfig(method="hard-prompt").trainable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "qpeft"),
        ("k", 0),
        ("k", 1.5),
        ("k", True),
        ("heads", 0),
        ("hint_layers", -1),
        ("passage_tokens", 0),
        ("placement", "middle"),
        ("similarity", "l2"),
        ("filters", ("stopword",)),
        ("attention_dropout", 1.0),
        ("hint_table", "x"),
        ("passage_format", "title"),
        ("layout", "other"),
        ("prompt", 5),
        ("hint_prefix", None),
        ("soft_prompt", "yes"),
        ("prompt_layers", 1),
        ("fixed_prompt", "read this"),
        ("lora_rank", -1),
        ("lora_dropout", 1.0),
        ("lora_alpha", 4),
        ("lora_targets", ("q_proj",)),
        ("lora_targets", "q_proj"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_the_setting(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        AdapterConfig(**{"method": "qpeft-r", name: value})


def test_the_published_code_draws_nothing() -> None:
    with pytest.raises(InputError, match="^layout: .*random"):
        AdapterConfig(method="random", layout="published")


def test_a_soft_prompt_needs_a_prompt() -> None:
    with pytest.raises(InputError, match="prompt"):
        AdapterConfig(method="soft-prompt", prompt="")


def test_unknown_or_damaged_settings_are_an_adapter_error_that_names_the_file() -> None:
    for settings in (
        {"colour": 1},
        {"k": "many"},
        {"filters": 5},
        {"attention_dropout": "x"},
        {"method": ["qpeft-r"]},
    ):
        with pytest.raises(AdapterError, match="^somewhere.json: "):
            AdapterConfig.from_dict(settings, "somewhere.json")


def test_a_lora_has_a_rank_and_what_follows_from_it() -> None:
    assert not AdapterConfig(method="hard-prompt").trainable
    config = AdapterConfig(method="hard-prompt", lora_rank=4)
    assert config.trainable and config.lora_alpha == 8
    given = AdapterConfig(lora_rank=4, lora_alpha=5, lora_targets=("q_proj", "v_proj"))
    assert AdapterConfig.from_dict(json.loads(json.dumps(given.to_dict()))) == given and given.lora_alpha == 5


def test_settings_from_before_there_was_a_lora_have_none() -> None:
    before = {name: value for name, value in AdapterConfig().to_dict().items() if "lora" not in name}
    assert AdapterConfig.from_dict(before) == AdapterConfig() and AdapterConfig().lora_rank == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("prompt", "Read."), ("soft_prompt", True), ("k", 3), ("placement", "prefix"), ("filters", ())],
)
def test_rankllama_has_no_settings_of_a_likelihood(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: the method rankllama has no such setting"):
        AdapterConfig(method="rankllama", **{name: value})


def test_rankllama_survives_json_and_has_a_lora() -> None:
    config = AdapterConfig(method="rankllama", passage_tokens=50)
    assert config.trainable and config.lora_rank == 32
    assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
