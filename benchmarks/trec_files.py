"""Benchmark 5: read, write and evaluate a large run, against the tools of the field.

Each system runs in a process of its own, start-up included, so that its peak memory is its own. Everything is
evaluated by nDCG@10, RR, R@100 and AP over all judged topics. The run is made: 6,980 topics with 1,000
documents each are as many as MS MARCO's development topics have.

    python benchmarks/trec_files.py
    python benchmarks/trec_files.py --topics 50 --depth 100 --repeats 1 --systems ours pytrec_eval
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import arguments, median, ratio, report, run_process

MEASURES = ["nDCG@10", "RR", "R@100", "AP"]
TREC_MEASURES = ["ndcg_cut.10", "recip_rank", "recall.100", "map"]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "trec_files", repeats=3)
    parser.add_argument("--topics", type=int, default=6980)
    parser.add_argument("--depth", type=int, default=1000, help="documents of each topic")
    parser.add_argument("--folder", type=Path, help="keep the run here (default: a temporary folder)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--task", help=argparse.SUPPRESS)  # the process of one task
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task](options.folder / "run.txt", options.folder / "qrels.txt")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_files(folder, options.topics, options.depth)
        rows = measure(folder, options)
    report(f"TREC files: a run of {options.topics * options.depth:,} lines", rows, options)


def make_files(folder: Path, topics: int, depth: int) -> None:
    """A run in Anserini's form, and qrels with one relevant document for each topic, at a random rank."""
    draw = random.Random(0)
    with open(folder / "run.txt", "w") as run, open(folder / "qrels.txt", "w") as qrels:
        for topic in range(topics):
            qid = 1_048_585 + 7 * topic
            docids = draw.sample(range(8_841_823), depth)
            scores = sorted((7 + draw.expovariate(1 / 3) for _ in docids), reverse=True)
            run.writelines(
                f"{qid} Q0 {docid} {rank} {score:.6f} Anserini\n"
                for rank, (docid, score) in enumerate(zip(docids, scores), 1)
            )
            qrels.write(f"{qid} 0 {docids[draw.randrange(depth)]} 1\n")


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each task of each system that is there."""
    tasks = [task for task in TASKS if task.split(":")[0] in options.systems and _is_there(task)]
    seen: dict[str, list[Any]] = {task: [] for task in tasks}
    for _ in range(options.repeats):
        for task in tasks:
            print(f"{task} ...", end=" ", flush=True)
            finished = run_process([sys.executable, __file__, "--task", task, "--folder", folder])
            seen[task].append(finished)
            print(f"{finished.seconds:.1f} s", flush=True)
    rows = []
    for task, runs in seen.items():
        system, what = task.split(":")
        like = f"ours:{what.split()[0]}"
        seconds = [run.seconds for run in runs]
        rows.append(
            {
                "system": system,
                "task": what,
                "s": median(seconds),
                "CPU s": median([run.cpu_seconds for run in runs]),
                "peak MiB": max(run.peak_mib for run in runs),
                "times ours": ratio(median(seconds), median([run.seconds for run in seen[like]]))
                if like in seen
                else None,
                "seconds": seconds,
                "answer": json.loads(runs[0].output.splitlines()[-1]),
            }
        )
    return rows


def _is_there(task: str) -> bool:
    system = task.split(":")[0]
    if importlib.util.find_spec({"ours": "qpeft_rerank"}.get(system, system)) is None:
        print(f"{system} is not installed: left out")
        return False
    return True


def our_reading(run: Path, qrels: Path) -> Any:
    from qpeft_rerank.trec import read_run

    return sum(len(ranking.docs) for ranking in read_run(run))


def our_writing(run: Path, qrels: Path) -> Any:
    """Reading is in it: the run must come from somewhere, and not from memory."""
    from qpeft_rerank.trec import read_run, write_run

    return write_run(read_run(run), run.with_name("written.txt"), "tag")


def our_evaluation(run: Path, qrels: Path) -> Any:
    from qpeft_rerank.evaluation import evaluate

    return evaluate(run, qrels, MEASURES).means


def pytrec_eval_reading(run: Path, qrels: Path) -> Any:
    import pytrec_eval

    with open(run) as lines:
        return sum(map(len, pytrec_eval.parse_run(lines).values()))


def pytrec_eval_evaluation(run: Path, qrels: Path) -> Any:
    import pytrec_eval

    with open(run) as lines, open(qrels) as judged:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(judged), set(TREC_MEASURES))
        values = evaluator.evaluate(pytrec_eval.parse_run(lines)).values()
    names = [name.replace(".", "_") for name in TREC_MEASURES]
    return {name: sum(topic[name] for topic in values) / len(values) for name in names}


def ir_measures_reading(run: Path, qrels: Path) -> Any:
    import ir_measures

    return sum(1 for _ in ir_measures.read_trec_run(str(run)))


def ir_measures_evaluation(run: Path, qrels: Path) -> Any:
    import ir_measures

    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    judged = list(ir_measures.read_trec_qrels(str(qrels)))
    values = ir_measures.calc_aggregate(measures, judged, ir_measures.read_trec_run(str(run)))
    return {str(measure): value for measure, value in values.items()}


def pyserini_evaluation(run: Path, qrels: Path) -> Any:
    """`python -m pyserini.eval.trec_eval`, as its users call it."""
    import subprocess

    flags = [word for name in TREC_MEASURES for word in ("-m", name)]
    command = [sys.executable, "-m", "pyserini.eval.trec_eval", "-c", *flags, qrels, run]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=_with_java())
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {words[0]: float(words[2]) for words in lines if len(words) == 3 and words[1] == "all"}


def _with_java() -> dict[str, str]:
    """It calls ``java`` by that name."""
    import os

    from qpeft_rerank.java import java_executable

    folder = Path(java_executable()).parent
    return {**os.environ, "JAVA_HOME": str(folder.parent), "PATH": f"{folder}:{os.environ['PATH']}"}


TASKS: dict[str, Callable[[Path, Path], Any]] = {
    "ours:read": our_reading,
    "pytrec_eval:read": pytrec_eval_reading,
    "ir_measures:read": ir_measures_reading,
    "ours:evaluate": our_evaluation,
    "pytrec_eval:evaluate": pytrec_eval_evaluation,
    "ir_measures:evaluate": ir_measures_evaluation,
    "pyserini:evaluate": pyserini_evaluation,
    "ours:read and write": our_writing,
}
SYSTEMS = tuple(dict.fromkeys(task.split(":")[0] for task in TASKS))

if __name__ == "__main__":
    main()
