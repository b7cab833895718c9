"""What is built has all modules."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_folder_with_modules_is_a_package_that_is_built() -> None:
    setuptools = pytest.importorskip("setuptools")
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    include = config["options.packages.find"]["include"].split()
    built = setuptools.find_packages(str(ROOT), include=include)
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "qpeft_rerank").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(built)
