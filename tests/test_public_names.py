"""The package's own names: type checkers and programs find each in the same module."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import qpeft_rerank


def test_type_checkers_see_the_names_that_programs_get() -> None:
    tree = ast.parse(Path(qpeft_rerank.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for name in node.names:
            seen[name.asname or name.name] = node.module.removeprefix("qpeft_rerank.")
    assert seen == qpeft_rerank._HOME


@pytest.mark.parametrize("name", sorted(qpeft_rerank._HOME))
def test_every_name_is_there_and_no_module_hides_it(name: str) -> None:
    home = import_module(f"qpeft_rerank.{qpeft_rerank._HOME[name]}")
    assert getattr(qpeft_rerank, name) is getattr(home, name)
    assert find_spec(f"qpeft_rerank.{name}") is None, "once imported, it would be found instead"
