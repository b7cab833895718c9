"""What the pages show works: Python runs, the collection file loads, flags and files exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from qpeft_rerank.cli import convert, documents
from qpeft_rerank.cli.__main__ import VERBS, main
from qpeft_rerank.collection import load_collection
from qpeft_rerank.trec import Ranking, ScoredDoc, load_run, write_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "runs" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]
DEMO = ROOT / "qpeft_rerank" / "demo" / "collection"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples name, from the embedded collection."""
    for name in ("corpus.jsonl", "topics.test.tsv", "qrels.test.txt"):
        shutil.copy(DEMO / name, tmp_path / name)
    docs = [ScoredDoc(f"d{n:03d}", 1.0 / n) for n in range(1, 7)]
    write_run([Ranking("q001", docs), Ranking("q002", docs)], tmp_path / "run.bm25.txt", "bm25")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_examples_run(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), namespace)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("d1 ") and lines[1].startswith("d2 "), "the passage on bees is the better one"
    assert {len(ranking.docs) for ranking in load_run(working_folder / "run.reranked.txt").values()} == {6}
    assert "nDCG@10" in lines[-1]


def test_the_collection_file_loads(tmp_path: Path) -> None:
    (tmp_path / "squad.toml").write_text(blocks("toml")[0], encoding="utf-8")
    collection = load_collection(tmp_path / "squad.toml")
    assert collection.topics_of("test").endswith("topics.test.tsv")


def test_every_flag_that_the_pages_name_exists(capsys: pytest.CaptureFixture[str]) -> None:
    help_texts = []
    forms = [("convert", form) for form in convert.VERBS] + [("documents", form) for form in documents.VERBS]
    for words in [(verb,) for verb in VERBS] + forms:
        main([*words, "--help"])
        help_texts.append(capsys.readouterr().out)
    known = set(re.findall(r"--[a-z][a-z0-9-]*", " ".join(help_texts))) | {
        "--extra-index-url",
        "--help",
        "--nproc_per_node",
    }
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        # Scripts have flags of their own; a command goes on behind a backslash.
        ours = re.sub(r"python pipelines/(.*\\\n)*.*", "", page.read_text(encoding="utf-8"))
        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", ours)
        assert set(named) <= known, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target
        if anchor:
            titles = re.findall(
                r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE
            )
            slugs = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, target + anchor


def test_every_file_that_the_readme_names_exists() -> None:
    table = README.partition("## Where what is")[2]
    for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", table):
        assert (ROOT / name).exists() or (ROOT / "qpeft_rerank" / name).exists(), name
