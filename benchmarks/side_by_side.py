"""What all benchmarks share: contenders timed in turn, the machine's description, a table and a JSON file."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.record import run_record

MIB = 2**20
# Packages that are compared, beside those that every record of the package names.
_CONTENDERS = ("sentence-transformers", "ir-measures", "tokenizers", "pandas")


def arguments(description: str, name: str, repeats: int = 5) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path(f"{name}.json"), help="JSON file with what was seen"
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs; the median counts")
    parser.add_argument(
        "--threads", type=int, help="PyTorch's threads (default: one for each core it may use)"
    )
    return parser


def use_threads(options: argparse.Namespace) -> None:
    """Set PyTorch's threads to ``--threads``, or to the cores that this process may use."""
    import torch

    torch.set_num_threads(options.threads or usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def time_in_turn(
    contenders: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each run of each contender.

    They take turns, so that a slow moment of the machine meets all alike. On a GPU, time ends when its work
    is done.
    """
    if warm_up:
        for contender in contenders.values():
            contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            gc.collect()
            _wait_for_gpu()
            start = time.perf_counter()
            contender()
            _wait_for_gpu()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(seconds: Sequence[float]) -> float:
    """The median, rounded as far as it can mean anything."""
    return float(f"{statistics.median(seconds):.4g}")


def ratio(value: float, other: float) -> float:
    """How many times larger one is."""
    return round(value / other, 2)


class Finished(NamedTuple):
    """A process that ended well."""

    seconds: float
    cpu_seconds: float
    """Its own and those of the processes that it waited for: they hardly suffer when a machine is busy."""
    peak_mib: float
    """Its largest resident memory, or that of the largest process that it waited for."""
    output: str


def run_process(command: Sequence[str | Path], **environment: str) -> Finished:
    """Run a command by itself: wall time with its start, and honest peak memory.

    The caller must be small: a process counts what its parent held when it was started.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    start = time.perf_counter()
    output, errors = _read_both(process)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{errors[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_seconds = round(usage.ru_utime + usage.ru_stime, 4)
    return Finished(seconds, cpu_seconds, round(usage.ru_maxrss * unit / MIB, 1), output)


def _read_both(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Output and errors to their ends. Unlike `communicate`, it leaves the process for `wait4` to meet."""
    from threading import Thread

    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    output = process.stdout.read()
    reader.join()
    process.stdout.close()
    process.stderr.close()
    return output, errors[0]


class PeakMemory:
    """The most memory that is taken within, above what was taken before: ``mib`` afterwards.

    On a GPU, what PyTorch allocated there. Elsewhere resident memory, which only Linux can start to count
    anew; ``mib`` stays None on other systems.
    """

    def __init__(self, device: str = "cpu"):
        self.gpu = device.startswith("cuda")
        self.mib: float | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *failure: object) -> None:
        if self.gpu:
            import torch

            self.mib = round((torch.cuda.max_memory_allocated() - self._before) / MIB, 1)
        elif sys.platform == "linux":
            self.mib = round((_status("VmHWM") - self._before) / MIB, 1)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """The hardware and what was set on it."""
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": None if torch is None else torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report(title: str, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Print the rows as a table and write them as JSON with all that they depend on."""
    described = machine()
    print(f"\n{title}\n{described['gpu'] or described['cpu']}, {described['cores']} cores\n")
    print(table(rows))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    record = {"benchmark": title, **run_record(settings), "machine": described, "rows": list(rows)}
    for name in _CONTENDERS:
        try:
            record["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {options.output}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns as wide as their widest cell; a column for each key of any row, lists left out."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if not _is_list(rows, key)]
    cells = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if _is_number(cell) else cell.ljust(width) for cell, width in zip(row, widths)
        ).rstrip()
        for row in cells
    )


def _is_list(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(isinstance(row.get(key), (list, dict)) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "").replace("e-", "").isdigit()
