"""After a kill at any moment, resuming ends with the very bytes of an undisturbed run."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from full_disk import small_files_only

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.resume import write_resumably
from qpeft_rerank.trec import Ranking, ScoredDoc, format_ranking, read_run

RUN = [
    Ranking(qid, [ScoredDoc(f"{qid}-{d}", float(-d)) for d in range(1 + i % 3)])
    for i, qid in enumerate("abcdefg")
]
SETTINGS = {"depth": 100, "model": "tiny", "filters": ("a", "b")}
WINDOW = 2
Stage = Callable[[Iterable[Ranking]], Iterator[Ranking]]


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of files are written here


def stage(
    rankings: Iterable[Ranking], stop: int | None = None, seen: list[str] | None = None
) -> Iterator[Ranking]:
    """Turns each topic round; like the real one it refuses an empty run, and may be killed before a topic."""
    empty = True
    for place, ranking in enumerate(rankings):
        empty = False
        if place == stop:
            raise Killed
        if seen is not None:
            seen.append(ranking.qid)
        yield Ranking(
            ranking.qid, [ScoredDoc(doc.docid, float(i)) for i, doc in enumerate(ranking.docs)][::-1]
        )
    if empty:
        raise InputError("the run is empty: there is nothing to rerank")


EXPECTED = "".join(format_ranking(ranking, "tag") for ranking in stage(RUN)).encode()


def write(
    output: Path, run: Iterable[Ranking] = RUN, stage: Stage = stage, resume: bool = False, **changes: object
) -> int:
    return write_resumably(iter(run), stage, output, "tag", {**SETTINGS, **changes}, WINDOW, resume)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_an_undisturbed_run_leaves_the_run_and_its_record(tmp_path: Path) -> None:
    assert write(tmp_path / "run.txt") == len(RUN)
    assert (tmp_path / "run.txt").read_bytes() == EXPECTED and files(tmp_path) == {"run.txt", "run.txt.json"}
    record = json.loads((tmp_path / "run.txt.json").read_text())
    assert (
        record["topics"] == len(RUN) and record["settings"]["model"] == "tiny" and record["packages"]["torch"]
    )


@pytest.mark.parametrize("name", ["run.txt", "run.txt.gz"])
def test_a_run_killed_before_any_topic_is_resumed_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    write(tmp_path / f"whole.{name}")
    for stop in range(len(RUN) + 1):
        for again in (0, 3):  # killed a second time, too
            for place in (stop, again):
                try:
                    write(
                        output, stage=lambda rankings, place=place: stage(rankings, stop=place), resume=True
                    )
                except Killed:
                    assert not output.exists(), "a file under the final name is whole"
            write(output, resume=True)
            assert output.read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
            assert not any(".partial" in file for file in files(tmp_path))
            output.unlink()
    if name.endswith(".gz"):
        assert gzip.decompress((tmp_path / f"whole.{name}").read_bytes()) == EXPECTED


def test_a_run_cut_off_at_any_byte_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    output, partial = tmp_path / "run.txt", tmp_path / "run.txt.partial"
    with pytest.raises(Killed):
        write(output, stage=lambda rankings: stage(rankings, stop=5))
    beside = {
        name: (tmp_path / name).read_bytes() for name in ("run.txt.partial.json", "run.txt.partial.input")
    }
    held = partial.read_bytes()
    assert EXPECTED.startswith(held)
    for length in range(len(held) + 1):
        partial.write_bytes(held[:length])
        for name, content in beside.items():
            (tmp_path / name).write_bytes(content)
        seen: list[str] = []
        assert write(
            output, stage=lambda rankings, seen=seen: stage(rankings, seen=seen), resume=True
        ) == len(RUN)
        assert output.read_bytes() == EXPECTED
        done = held[:length].count(b"\n") // 3  # topics of one and two documents follow each other
        assert len(RUN) - len(seen) in (0, 2, 4) and len(seen) <= max(len(RUN) - done, 3)
        output.unlink()
    for length in range(len(beside["run.txt.partial.input"])):  # what is not known of is done again
        partial.write_bytes(held)
        (tmp_path / "run.txt.partial.json").write_bytes(beside["run.txt.partial.json"])
        (tmp_path / "run.txt.partial.input").write_bytes(beside["run.txt.partial.input"][:length])
        assert write(output, resume=True) == len(RUN) and output.read_bytes() == EXPECTED
        output.unlink()


def test_only_whole_windows_are_kept_so_that_batches_are_the_same(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, stop=5))
    seen: list[str] = []
    write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, seen=seen), resume=True)
    assert seen == ["e", "f", "g"]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "run.txt"
    write(output)
    before = output.stat().st_mtime_ns

    def never(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
        raise AssertionError("nothing is to be done")

    assert write(output, stage=never, resume=True) == len(RUN) and output.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="model was 'tiny' and is now 'large'"):
        write(output, stage=never, resume=True, model="large")


def test_a_run_beside_the_record_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    output, other = tmp_path / "run.txt", tmp_path / "other.txt"
    for name, place in (("tiny", output), ("large", other)):
        write(place, model=name)
    other.write_bytes(other.read_bytes().replace(b" tag", b" gat"))  # the same documents
    os.replace(other, output)  # as a kill leaves them between the two
    with pytest.raises(InputError, match="run.txt is not the run of its record .*run.txt.json: delete it"):
        write(output, resume=True)
    output.unlink()
    assert write(output, resume=True) == len(RUN) and output.read_bytes() == EXPECTED


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_under_other_settings(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, stop=4))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InputError, match="resume it"):
        write(tmp_path / "run.txt")
    with pytest.raises(InputError, match="cannot resume: depth was 100 and is now 50"):
        write(tmp_path / "run.txt", resume=True, depth=50)
    with pytest.raises(InputError, match="of another run: it has topic 'a', the input 'z'"):
        write(tmp_path / "run.txt", run=[Ranking("z", RUN[0].docs), *RUN[1:]], resume=True)
    with pytest.raises(InputError, match="of another run: topic 'a' had another query, other documents"):
        write(tmp_path / "run.txt", run=[Ranking("a", [ScoredDoc("other", 1.0)]), *RUN[1:]], resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_run_that_has_fewer_topics_than_are_finished_is_another_run(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, stop=4))
    for topics in range(4):
        with pytest.raises(InputError, match=f"it has 4 finished topics, the input {topics} in all"):
            write(tmp_path / "run.txt", run=RUN[:topics], resume=True)
    assert write(tmp_path / "run.txt", resume=True) == len(RUN)
    assert (tmp_path / "run.txt").read_bytes() == EXPECTED


def test_a_run_of_the_same_documents_with_other_scores_is_another_run(tmp_path: Path) -> None:
    other = [Ranking(qid, [ScoredDoc(d, score + 1) for d, score in docs]) for qid, docs in RUN]
    with pytest.raises(Killed):
        write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, stop=4))
    with pytest.raises(InputError, match="run.txt.partial is of another run: topic 'a' had another query"):
        write(tmp_path / "run.txt", run=other, resume=True)
    write(tmp_path / "run.txt", resume=True)
    with pytest.raises(InputError, match="run.txt is of another run: that had other queries or scores"):
        write(tmp_path / "run.txt", run=other, resume=True)


def test_without_its_settings_an_unfinished_run_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "run.txt.partial").write_bytes(EXPECTED[:50])
    for settings in (None, "{"):
        if settings:
            (tmp_path / "run.txt.partial.json").write_text(settings)
        with pytest.raises(InputError, match="cannot resume") as error:
            write(tmp_path / "run.txt", resume=True)
        assert "\n" not in str(error.value)


def test_a_run_stopped_before_its_first_topic_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("1 Q0 d1 1 high tag\n")
    (tmp_path / "empty.txt").write_text("")
    for name, error in (("bad.txt", FormatError), ("empty.txt", InputError), ("absent.txt", InputError)):
        with pytest.raises(error):
            write(tmp_path / "run.txt", run=read_run(tmp_path / name))
    with pytest.raises(Killed):
        write(tmp_path / "run.txt", stage=lambda rankings: stage(rankings, stop=0))
    assert files(tmp_path) == {"bad.txt", "empty.txt"}


def test_a_full_disk_is_named_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    run = [Ranking(str(topic), [ScoredDoc("d" * 100, 1.0)]) for topic in range(1500)]
    with small_files_only(), pytest.raises(OSError) as error:
        write(tmp_path / "run.txt", run)
    assert error.value.filename == str(tmp_path / "run.txt.partial")
    assert write(tmp_path / "run.txt", run, resume=True) == len(run)
    assert [ranking.qid for ranking in read_run(tmp_path / "run.txt")] == [ranking.qid for ranking in run]


def test_an_empty_unfinished_run_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "run.txt.partial").write_bytes(b"")  # killed -9 before the first topic
    write(tmp_path / "run.txt")
    assert files(tmp_path) == {"run.txt", "run.txt.json"}


def test_an_older_run_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "run.txt"
    write(output)
    with pytest.raises(Killed):
        write(output, stage=lambda rankings: stage(rankings, stop=4), model="large")
    assert output.read_bytes() == EXPECTED
    write(output, resume=True, model="large")
    assert json.loads((tmp_path / "run.txt.json").read_text())["settings"]["model"] == "large"


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "run.txt"

    def disturbed(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
        for place, ranking in enumerate(stage(rankings)):
            if place in (0, 3):  # before anything was written, and after
                for resume in (False, True):
                    with pytest.raises(InputError, match="run.txt.partial is being written by another"):
                        write_resumably(RUN, stage, output, "tag", SETTINGS, resume=resume)
            yield ranking

    assert write_resumably(RUN, disturbed, output, "tag", SETTINGS) == len(RUN)
    assert output.read_bytes() == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.txt", "run.txt.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name, read in (("link.txt", bytes), ("link.gz", gzip.decompress)):
        link, target = tmp_path / name, tmp_path / "runs" / f"of {name}.txt"
        link.symlink_to(target)
        write_resumably(RUN, stage, link, "tag", SETTINGS)
        assert link.is_symlink() and read(target.read_bytes()) == EXPECTED


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write(tmp_path / "nowhere" / "run.txt")


SCRIPT = """
import os, signal, sys
from qpeft_rerank.resume import write_resumably
from qpeft_rerank.trec import Ranking, ScoredDoc
run = [Ranking(str(q), [ScoredDoc(f"{q}-{d}", -d) for d in range(20)]) for q in range(30)]
def stage(rankings):
    for ranking in rankings:
        if ranking.qid == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield ranking
write_resumably(iter(run), stage, sys.argv[1], "tag", {}, 4, resume=True)
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    def run(output: Path, stop: str) -> int:
        command: Sequence[str] = [sys.executable, "-c", SCRIPT, str(output), stop]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, env=environment, check=False).returncode

    for stop in ("5", "17", "29"):
        assert run(tmp_path / "killed", stop) == -signal.SIGKILL and not (tmp_path / "killed").exists()
    assert run(tmp_path / "killed", "never") == run(tmp_path / "whole", "never") == 0
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
