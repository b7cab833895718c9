"""A folder takes its place whole; whatever happens, one of the two is there under the name."""

import os
import stat
from pathlib import Path

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.folders import replacing_folder


def replace(target: Path) -> None:
    with replacing_folder(target) as building:
        (building / "file").write_text("new")


@pytest.fixture
def old(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "file").write_text("old")
    return tmp_path / "index"


def test_a_folder_appears_or_is_replaced_and_nothing_else_is_left(tmp_path, old):
    replace(old)
    replace(tmp_path / "deep" / "er" / "index")
    for folder in (tmp_path / "deep" / "er", tmp_path):
        assert (folder / "index" / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["deep", "index"] and os.listdir(old) == ["file"]


def test_its_permissions_are_those_of_any_other_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()

    def forbidden(mask):
        raise AssertionError("the mask is the whole process's: other threads would make files with it")

    monkeypatch.setattr(os, "umask", forbidden)
    replace(tmp_path / "index")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "index")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_folder_is_back_if_a_move_is_stopped(old, monkeypatch, failing, error):
    rename, calls = Path.rename, []

    def stopped(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(error):
        replace(old)
    assert os.listdir(old.parent) == ["index"] and (old / "file").read_text() == "old"


def test_a_link_stays_a_link(tmp_path, old):
    (tmp_path / "link").symlink_to("index")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (old / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["index", "link"]


def test_a_place_where_no_folder_can_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        replace(tmp_path / "file" / "index")
