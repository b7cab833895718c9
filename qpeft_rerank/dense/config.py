"""How an encoder puts a text to its model: a checked dataclass, kept as `encoder.json` beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.errors import InputError
from qpeft_rerank.files import atomic_write
from qpeft_rerank.models.names import ENCODER_FILE
from qpeft_rerank.settings import check_settings, setting

FORMAT = "qpeft-rerank encoder 1"
POOLINGS = ("last", "mean", "cls")
TEMPLATES: dict[str, dict[str, Any]] = {
    # Ma et al., arXiv 2310.08319, and the model card of castorini/repllama-v1-7b-lora-passage.
    "repllama": {"query_prefix": "query: ", "passage_prefix": "passage: "},
    # Li et al., arXiv 2312.15503; the words and tokens are those of FlagEmbedding's research/LLARA.
    "llara": {
        "query_prefix": '"',
        "passage_prefix": '"',
        "query_suffix": '", predict the following passage within eight words: ',
        "passage_suffix": '", summarize the above passage within eight words: ',
        "query_marks": tuple(f"<s{i}>" for i in range(9, 17)),
        "passage_marks": tuple(f"<s{i}>" for i in range(1, 9)),
    },
    # The text of the paper (ACL 2024, and arXiv's second version) as two readers quote it; see `llara`.
    "llara-paper": {
        "query_prefix": "",
        "passage_prefix": "",
        "query_suffix": " The next sentence is:",
        "passage_suffix": " The input sentence is:",
    },
    "plain": {"query_prefix": "", "passage_prefix": ""},
}


class Side(NamedTuple):
    """What goes around a query, or around a passage, and after how many tokens the text is cut."""

    prefix: str
    suffix: str
    marks: tuple[str, ...]
    tokens: int


@dataclass(frozen=True)
class EncoderConfig:
    """The settings of one encoder.

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    pooling: str = setting(
        "last",
        "which states make the vector: the last token's (causal models), the mean of all, or the first's",
        choices=POOLINGS,
    )
    query_prefix: str = setting("query: ", "text in front of a query")
    passage_prefix: str = setting("passage: ", "text in front of a passage")
    query_suffix: str = setting("", "text after a query")
    passage_suffix: str = setting("", "text after a passage")
    query_marks: tuple[str, ...] = setting(
        (),
        "special tokens at a query's end, whose mean is the vector; without any, the end token's state is",
        filled=True,
    )
    passage_marks: tuple[str, ...] = setting((), "the same for passages", filled=True)
    query_tokens: int = setting(64, "a query is cut after this many tokens, its prefix counted", least=1)
    passage_tokens: int = setting(300, "a passage is cut after this many tokens, its prefix counted", least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("query_marks", "passage_marks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.pooling != "last" and (self.query_marks or self.passage_marks):
            raise InputError(f"query_marks, passage_marks: pooling {self.pooling!r} does not look at them")

    @classmethod
    def of(cls, template: str, **changes: Any) -> EncoderConfig:
        """The settings of a template (`TEMPLATES`), with changes."""
        if template not in TEMPLATES:
            raise InputError(f"template: {template!r} is not one of {', '.join(TEMPLATES)}")
        return cls(**{**TEMPLATES[template], **changes})

    @property
    def query(self) -> Side:
        """What goes around a query."""
        return Side(self.query_prefix, self.query_suffix, self.query_marks, self.query_tokens)

    @property
    def passage(self) -> Side:
        """What goes around a passage."""
        return Side(self.passage_prefix, self.passage_suffix, self.passage_marks, self.passage_tokens)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` is its inverse."""
        values = asdict(self)
        return {**values, **{key: list(values[key]) for key in ("query_marks", "passage_marks")}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: object = ENCODER_FILE) -> EncoderConfig:
        """Check and build. Raises `InputError` that names ``where`` and the key."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise InputError(f"{where}: unknown setting {unknown[0]!r}")
        try:
            return cls(**values)
        except (InputError, TypeError) as error:
            raise InputError(f"{where}: {error}") from error


def save_encoder_config(folder: Path, config: EncoderConfig) -> None:
    """Write ``encoder.json``."""
    with atomic_write(folder / ENCODER_FILE) as stream:
        json.dump({"format": FORMAT, "settings": config.to_dict()}, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def read_description(path: Path, form: str, what: str) -> dict[str, Any]:
    """A JSON object of ours, which says its ``format``. Raises `InputError` if it is not that of ``what``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise InputError(f"{path}: is no description of {what} of qpeft-rerank")
    return content


def read_encoder_config(path: Path) -> EncoderConfig:
    """The settings in an ``encoder.json``. Raises `InputError`."""
    content = read_description(path, FORMAT, "an encoder")
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{path}: lacks 'settings'")
    return EncoderConfig.from_dict(settings, path)
