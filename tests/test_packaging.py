"""What is built has all modules, and what is checked all of its style."""

from __future__ import annotations

import shutil
import subprocess
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


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_lint_checks_rules_and_format_of_all_folders_with_modules() -> None:
    done = subprocess.run(["make", "-n", "lint"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[a-z]*/**/*.py")}
    for command in ("ruff check", "ruff format --check"):
        (line,) = (line for line in done.stdout.splitlines() if command in line)
        assert set(line.partition(command)[2].split()) == folders
