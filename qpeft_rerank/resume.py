"""A rerank run that survives a kill: topics are kept as they are scored, and resuming ends in the same bytes.

While it runs, ``OUTPUT.partial`` holds the lines of finished topics, ``OUTPUT.partial.json`` the settings
they were made with, and ``OUTPUT.partial.input`` a hash of each topic's query and ranking in the input, which
may come through a pipe. Of run and topics only what was finished is compared, so that a run that a missing
topic has stopped goes on once they are mended. At the end they become ``OUTPUT`` and its record
``OUTPUT.json``: a file under the final name is always whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import InputError
from qpeft_rerank.files import STDOUT, atomic_write, check_output, content_sha256, is_same_file, writing
from qpeft_rerank.rankings import Ranking
from qpeft_rerank.record import first_difference, run_record
from qpeft_rerank.trec import format_ranking, read_run

# Of the unfinished run, its settings, its input, the record of a whole one.
ENDINGS = (".partial", ".partial.json", ".partial.input", ".json")


# Settings that say what an input was; their values would tell a user nothing.
_CONTENTS = {
    "passages_fingerprint": "the passages, or the index that they come from, have",
    "base_sha256": "the base model's weights or tokenizer have",
    "trained_sha256": "the adapter's weights have",
}
# What these inputs were called, which makes no difference where their contents are known.
_NAMES = {
    "passages_fingerprint": "passages",
    "base_sha256": "base_model.name",
    "trained_sha256": "adapter",
}


def check_resumable(output: str | Path, *inputs: Any) -> None:
    """As `files.check_output`, for all files that `write_resumably` makes. Raises `InputError`."""
    check_output(output, *inputs)
    for beside in (Path(os.path.realpath(output) + ending) for ending in ENDINGS):
        for source in inputs:
            if is_same_file(source, beside):
                raise InputError(
                    f"{output}: beside it goes {beside.name}, the input {source}: write to another file"
                )


def write_resumably(
    rankings: Iterable[Ranking],
    stage: Callable[[Iterable[Ranking]], Iterator[Ranking]],
    output: str | Path,
    tag: str,
    settings: Mapping[str, Any],
    window: int = 1,
    resume: bool = False,
    on_resumed: Callable[[int], None] | None = None,
    circumstances: Mapping[str, Any] | None = None,
    queries: Mapping[str, str] | None = None,
    stricter: Mapping[str, Any] | None = None,
) -> int:
    """Write ``stage(rankings)`` to ``output``, each topic as soon as it is there.

    Args:
        rankings: the input run.
        stage: gives a ranking of the same documents for each ranking, in order.
        output: file to write (``.gz`` is zipped at the end); of a link, what it points to, its record there.
        tag: the run's tag.
        settings: all that the result depends on, JSON-ready; a run is only resumed under the same ones.
        window: the stage works on this many topics at a time, so a resumed run starts at a multiple of it.
        resume: go on where a killed run stopped; a finished one is left as it is.
        on_resumed: hears how many topics were there already.
        circumstances: what else the record is to say; a run may be resumed under other ones.
        queries: the text of each topic, where the result depends on it.
        stricter: a setting that had this value may now have any other: what is finished would be the same.

    Returns:
        The number of topics in the file.

    Raises:
        InputError: ``output`` is stdout, a folder or a device; an unfinished run is there and ``resume`` is
            not set, or it was made from other input or settings, or another process is at it.
    """
    given = output = Path(output)
    if str(output) in STDOUT or (output.exists() and not output.is_file()):
        raise InputError(f"{output}: is no file that can be gone on with")
    if output.is_symlink():  # a link stays a link
        output = Path(os.path.realpath(output))
    partial, sidecar, inputs, record = (output.with_name(output.name + end) for end in ENDINGS)
    if not output.parent.is_dir():
        raise InputError(f"folder {str(output.parent)!r} does not exist")
    settings = json.loads(json.dumps(dict(settings)))  # as it will read back
    queries, stricter = queries or {}, stricter or {}
    rankings = iter(rankings)
    done = 0
    if resume and output.exists() and not partial.exists():
        _same_settings(record, settings, stricter)
        finished = _read_json(record)
        if finished.get("text_sha256") not in (None, content_sha256(output)):  # a kill between the two
            raise InputError(f"{output} is not the run of its record {record}: delete it to begin anew")
        _same_input(output, rankings, queries, finished.get("rankings_sha256"))
        return int(finished.get("topics", 0))
    with _alone(partial):
        if partial.stat().st_size:
            if not resume:
                raise InputError(
                    f"{partial} holds finished topics of an earlier run: resume it, or delete it"
                )
            _same_settings(sidecar, settings, stricter)
            done, rankings = _keep_whole_windows(partial, inputs, rankings, queries, window)
            if on_resumed is not None:
                on_resumed(done)
        topics, hashes = done, {}
        try:
            if done == 0:
                rankings = _not_empty(rankings)
            with atomic_write(sidecar) as stream:
                json.dump({**run_record(settings), "window": window}, stream, indent=2)
            rankings = _hashing(rankings, queries, hashes)
            with (
                writing(str(partial)),
                partial.open("a", encoding="utf-8", newline="") as stream,
                inputs.open("a" if done else "w", encoding="ascii") as noted,
            ):
                for ranking in stage(rankings) if done == 0 else _stage_if_any(stage, rankings):
                    noted.write(hashes.pop(ranking.qid) + "\n")
                    noted.flush()
                    stream.write(format_ranking(ranking, tag))
                    stream.flush()
                    topics += 1
                os.fsync(stream.fileno())
        except BaseException:
            # Stopped before the first topic: there is nothing to go on from.
            if not (partial.exists() and partial.stat().st_size):
                for file in (partial, sidecar, inputs):
                    file.unlink(missing_ok=True)
            raise
        facts = {
            "topics": topics,
            "rankings_sha256": hashlib.sha256(inputs.read_bytes()).hexdigest(),
            "text_sha256": content_sha256(partial),
        }
        with atomic_write(record) as stream:
            json.dump({**(circumstances or {}), **run_record(settings), **facts}, stream, indent=2)
        if given.suffix == ".gz":
            with partial.open(encoding="utf-8", newline="") as lines, atomic_write(given) as stream:
                stream.writelines(lines)
            partial.unlink()
        else:
            os.replace(partial, output)
        sidecar.unlink()
        inputs.unlink()
    return topics


def unfinished_window(output: str | Path) -> int | None:
    """The ``window`` of the unfinished run of ``output``, which resuming must keep; None if there is none."""
    sidecar = Path(os.path.realpath(output) + ".partial.json")
    return _read_json(sidecar).get("window") if sidecar.exists() else None


def _hash(ranking: Ranking, queries: Mapping[str, str]) -> str:
    """SHA-256 of a topic's query, documents and scores."""
    docs = [(doc.docid, float(doc.score)) for doc in ranking.docs]
    return hashlib.sha256(json.dumps([ranking.qid, queries.get(ranking.qid), docs]).encode()).hexdigest()


def _hashing(
    rankings: Iterable[Ranking], queries: Mapping[str, str], hashes: dict[str, str]
) -> Iterator[Ranking]:
    """The rankings, each noted in ``hashes`` under its topic as it goes by."""
    for ranking in rankings:
        hashes[ranking.qid] = _hash(ranking, queries)
        yield ranking


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold a lock on ``partial``, which is made if need be: two processes would mix their lines.

    Raises:
        InputError: another process has it, or gave it its final name this moment.
    """
    with writing(str(partial)), partial.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{partial} is being written by another process") from None
        except OSError:  # a file system without locks
            pass
        if not partial.exists() or not os.path.samestat(os.fstat(stream.fileno()), partial.stat()):
            raise InputError(f"{partial} was finished by another process this moment")
        yield


def _not_empty(rankings: Iterator[Ranking]) -> Iterator[Ranking]:
    """Read the first ranking now, so that unreadable input leaves no file behind."""
    first = next(rankings, None)
    return rankings if first is None else chain([first], rankings)


def _stage_if_any(
    stage: Callable[[Iterable[Ranking]], Iterator[Ranking]], rankings: Iterator[Ranking]
) -> Iterator[Ranking]:
    """Stages refuse an empty run; nothing left to do after a kill is none."""
    first = next(rankings, None)
    if first is not None:
        yield from stage(chain([first], rankings))


def _keep_whole_windows(
    partial: Path, inputs: Path, rankings: Iterator[Ranking], queries: Mapping[str, str], window: int
) -> tuple[int, Iterator[Ranking]]:
    """Cut ``partial`` after its last whole window; the number of topics it keeps, and the rankings left."""
    held: list[Ranking] = []
    hashes = inputs.read_text(encoding="ascii").split("\n")[:-1] if inputs.exists() else []
    end = whole = 0
    with partial.open("rb") as lines:
        for ranking in rankings:
            held.append(ranking)
            topic = whole + len(held) - 1
            if topic >= len(hashes):
                break
            documents = []
            for _ in ranking.docs:
                line = lines.readline()
                columns = line.split()
                if not line.endswith(b"\n") or len(columns) != 6:
                    break
                if columns[0] != ranking.qid.encode():
                    raise InputError(
                        f"{partial} is of another run: it has topic {columns[0].decode()!r}, the input "
                        f"{ranking.qid!r}"
                    )
                documents.append(columns[2].decode())
            if len(documents) < len(ranking.docs):
                break
            there = {doc.docid for doc in ranking.docs}
            if hashes[topic] != _hash(ranking, queries) or set(documents) != there:
                raise InputError(
                    f"{partial} is of another run: topic {ranking.qid!r} had another query, other documents "
                    "or other scores"
                )
            if len(held) == window:
                end, whole, held = lines.tell(), whole + window, []
        else:
            if whole + len(held) < len(hashes):
                raise InputError(
                    f"{partial} is of another run: it has {len(hashes)} finished topics, the input "
                    f"{whole + len(held)} in all"
                )
            if held:  # the last window is short, and whole
                end, whole, held = lines.tell(), whole + len(held), []
    os.truncate(partial, end)
    inputs.write_text("".join(f"{line}\n" for line in hashes[:whole]), encoding="ascii")
    return whole, chain(held, rankings)


def _same_input(
    output: Path, rankings: Iterator[Ranking], queries: Mapping[str, str], rankings_sha256: str | None
) -> None:
    """A finished run is of this input if it ranks the same documents for the same topics, and these had the
    same queries and scores.
    """
    finished, together = read_run(output), hashlib.sha256()
    for ranking in rankings:
        together.update(f"{_hash(ranking, queries)}\n".encode())
        if not ranking.docs:
            continue
        there = next(finished, None)
        if (
            there is None
            or there.qid != ranking.qid
            or {d.docid for d in there.docs} != {d.docid for d in ranking.docs}
        ):
            raise InputError(
                f"{output} is of another run: topic {ranking.qid!r} differs; delete it to begin anew"
            )
    if next(finished, None) is not None:
        raise InputError(f"{output} is of another run: it has more topics; delete it to begin anew")
    if rankings_sha256 not in (None, together.hexdigest()):
        raise InputError(
            f"{output} is of another run: that had other queries or scores; delete it to begin anew"
        )


def _same_settings(path: Path, settings: Mapping[str, Any], stricter: Mapping[str, Any]) -> None:
    before = dict(_read_json(path).get("settings", {}))
    same = {_NAMES[key] for key in _NAMES if before.get(key) == settings.get(key) is not None}
    before, settings = (_without(which, same) for which in (before, settings))
    for name, value in stricter.items():
        if before.get(name) == value:
            before[name] = settings.get(name)
    differs = first_difference(before, settings)
    if differs is not None:
        if differs.name in _CONTENTS and None not in (differs.before, differs.now):
            raise InputError(f"cannot resume: {_CONTENTS[differs.name]} changed ({path})")
        raise InputError(
            f"cannot resume: {differs.name} was {differs.before!r} and is now {differs.now!r} ({path})"
        )


def _without(settings: Mapping[str, Any], names: set[str], within: str = "") -> dict[str, Any]:
    """Settings but for those of these dotted names."""
    return {
        key: _without(value, names, f"{within}{key}.") if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if f"{within}{key}" not in names
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot resume: {path} cannot be read ({error})") from error
