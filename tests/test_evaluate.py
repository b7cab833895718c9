"""Evaluation: what counts, what does not, what is an error; and agreement with the real trec_eval."""

import platform
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluate import evaluate, run_names
from qpeft_rerank.trec import Ranking, ScoredDoc


def ranking(qid, *docids, score=None):
    """Documents in this order; with a score, all of them tied."""
    return Ranking(
        qid, [ScoredDoc(d, float(len(docids) - i) if score is None else score) for i, d in enumerate(docids)]
    )


def test_a_topic_without_results_counts_zero():
    result = evaluate([ranking("1", "a")], {"1": {"a": 1}, "2": {"b": 1}}, ["nDCG@10", "RR"])
    assert result.per_topic == {"1": {"nDCG@10": 1.0, "RR": 1.0}, "2": {"nDCG@10": 0.0, "RR": 0.0}}
    assert result.means == {"nDCG@10": 0.5, "RR": 0.5}
    assert (result.judged, result.retrieved, result.missing) == (2, 1, 1)


def test_a_topic_without_a_relevant_document_counts_zero_too():
    assert evaluate([ranking("1", "a"), ranking("2", "b")], {"1": {"a": 1}, "2": {"b": 0}}, ["RR"]).means == {
        "RR": 0.5
    }


def test_topics_that_are_not_judged_are_left_out_and_counted():
    result = evaluate(
        [ranking("1", "a"), ranking("8", "a"), ranking("9", "a")], {"1": {"a": 1}, "2": {}}, ["RR"]
    )
    assert (result.means, result.judged, result.unjudged) == ({"RR": 1.0}, 1, 2)


def test_ties_are_broken_by_docid_descending():
    assert evaluate([ranking("1", "a", "c", "b", score=1.0)], {"1": {"b": 1}}, ["RR"]).means == {"RR": 0.5}


def test_scores_that_are_equal_as_float32_are_ties():
    docs = [ScoredDoc("a", 1.0 + 1e-9), ScoredDoc("b", 1.0)]
    assert evaluate([Ranking("1", docs)], {"1": {"a": 1}}, ["RR"]).means == {"RR": 0.5}


def test_rankings_need_not_be_sorted():
    docs = [ScoredDoc("a", 1.0), ScoredDoc("b", 3), ScoredDoc("c", 2.0)]
    assert evaluate([Ranking("1", docs)], {"1": {"c": 1}}, ["RR"]).means == {"RR": 0.5}


@pytest.mark.parametrize("rank, value", [(9, 1 / 9), (10, 0.1), (11, 0.0)])
def test_reciprocal_rank_is_zero_below_its_cutoff(rank, value):
    run = [ranking("1", *(f"d{i}" for i in range(1, 200)))]
    assert evaluate(run, {"1": {f"d{rank}": 1}}, ["RR@10"]).means == {"RR@10": value}
    # Together with deeper measures the ranking is not cut at 10.
    assert evaluate(run, {"1": {f"d{rank}": 1}}, ["RR@10", "RR"]).means == {
        "RR@10": value,
        "RR": pytest.approx(1 / rank),
    }


def test_the_relevance_level_holds_for_binary_measures_only():
    run, qrels = [ranking("1", "a", "b")], {"1": {"a": 1, "b": 2}}
    low, high = (evaluate(run, qrels, ["nDCG@10", "AP", "R@1"], relevance_level=level) for level in (1, 2))
    assert low.means["nDCG@10"] == high.means["nDCG@10"] < 1.0
    assert (low.means["AP"], high.means["AP"]) == (1.0, 0.5)
    assert (low.means["R@1"], high.means["R@1"]) == (0.5, 0.0)


def test_a_level_in_the_name_wins():
    result = evaluate([ranking("1", "a", "b")], {"1": {"a": 1, "b": 2}}, ["AP", "AP(rel=2)", "NumRel(rel=2)"])
    assert result.means == {"AP": 1.0, "AP(rel=2)": 0.5, "NumRel(rel=2)": 1.0}


def test_negative_grades_are_not_relevant_and_do_no_harm():
    qrels = {"1": {"a": -2}, "2": {"a": -2, "b": 1}}
    result = evaluate([ranking("1", "a"), ranking("2", "a", "b")], qrels, ["nDCG@10", "RR", "AP"])
    assert result.per_topic["1"] == {"nDCG@10": 0.0, "RR": 0.0, "AP": 0.0}
    assert result.per_topic["2"]["RR"] == 0.5


def test_judged_is_the_share_of_judged_documents_among_those_that_are_there():
    qrels = {"1": {"a": 1, "b": 0, "z": 1}}
    assert evaluate([ranking("1", "a", "x", "b", "y")], qrels, ["Judged@2", "Judged@10"]).means == {
        "Judged@2": 0.5,
        "Judged@10": 0.5,
    }


def test_counts_are_sums_and_all_judged_topics_are_counted():
    qrels = {"1": {"a": 1}, "2": {"b": 1, "c": 1}}
    result = evaluate([ranking("1", "x", "a", "y")], qrels, ["num_q", "num_ret", "num_rel", "num_rel_ret"])
    assert result.means == {"num_q": 2, "num_ret": 3, "num_rel": 3, "num_rel_ret": 1}


def test_the_values_do_not_depend_on_what_else_is_asked():
    """Measures with cutoffs alone let the ranking be cut; the others do not."""
    rng = random.Random(5)
    run, qrels = random_collection(rng)
    names = [
        "nDCG@5",
        "RR@3",
        "P@4",
        "AP",
        "Bpref",
        "infAP",
        "SetP",
        "SetF",
        "IPrec@0.2",
        "nDCG",
        "Judged@7",
        "R@50",
    ]
    together = evaluate(run, qrels, names)
    for name in names:
        assert evaluate(run, qrels, [name]).means[name] == together.means[name]


def test_values_equal_pytrec_evals_on_whole_runs():
    import pytrec_eval

    run, qrels = random_collection(random.Random(3))
    asked = [
        "ndcg_cut.10",
        "map",
        "recall.100",
        "P.5",
        "bpref",
        "infAP",
        "Rprec",
        "set_F",
        "success.1",
        "recip_rank",
    ]
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(asked)).evaluate(
        {qid: dict(docs) for qid, docs in run}
    )
    for qid, values in evaluate(run, qrels, asked).per_topic.items():
        for name, value in values.items():
            assert value == (expected[qid][name.replace(".", "_", 1)] if qid in expected else 0.0)


@pytest.mark.parametrize(
    "run, message",
    [
        ([], "is empty"),
        ([ranking("7", "a")], "no topic in common: the run has '7', the qrels '007'"),
        ([ranking("007")], "no topic in common"),
        ([ranking("007", "a"), ranking("007", "b")], "topic '007' comes twice"),
        ([ranking("007", "a", "a")], "topic '007' has a document twice"),
        ([Ranking("007", [ScoredDoc("a", float("nan"))])], "not a finite float32 number"),
        ([Ranking("007", [ScoredDoc("a", "high")])], "topic '007'"),
        ([Ranking("007", [ScoredDoc(7, 1.0)])], "topic '007'"),
        ([Ranking("007", [ScoredDoc("\ud800", 1.0)])], "topic '007'"),
        ([Ranking("007", [ScoredDoc("a\0", 1.0)])], "NUL"),
    ],
)
def test_a_run_that_would_hide_a_mistake_is_an_error(run, message):
    with pytest.raises(InputError) as caught:
        evaluate(run, {"007": {"a": 1}})
    assert message in str(caught.value)


@pytest.mark.parametrize("qrels", [{}, {"1": {}}])
def test_empty_qrels_are_an_error(qrels):
    with pytest.raises(InputError, match="qrels are empty"):
        evaluate([ranking("1", "a")], qrels)


def test_a_huge_grade_is_an_error():
    with pytest.raises(InputError, match="grade 100000000"):
        evaluate([ranking("1", "a")], {"1": {"a": 10**8}})


@pytest.mark.parametrize("level", [0, -1, 1.5, True])
def test_a_relevance_level_below_one_is_an_error(level):
    with pytest.raises(InputError, match="relevance level"):
        evaluate([ranking("1", "a")], {"1": {"a": 1}}, relevance_level=level)


def test_files_are_read_and_name_the_run(tmp_path):
    run, qrels = tmp_path / "run.bm25.txt", tmp_path / "qrels.txt"
    run.write_text("007 Q0 b 1 1 t\n007 Q0 a 2 3 t\n")
    qrels.write_text("007 0 a 1\n")
    result = evaluate(run, qrels, ["RR"])
    assert (result.name, result.means) == ("run.bm25", {"RR": 1.0})
    with run.open() as lines:
        assert evaluate(lines, str(qrels), ["RR"], name="mine").name == "mine"


def test_rankings_may_come_from_a_generator():
    result = evaluate((ranking(str(i), "a") for i in range(3)), {str(i): {"a": 1} for i in range(3)}, ["RR"])
    assert (result.name, result.means) == ("run", {"RR": 1.0})


def test_run_names_are_as_long_as_needed():
    assert run_names(["x/run.bm25.txt", "y/run.qpeft.txt.gz", "-"]) == ["run.bm25", "run.qpeft", "stdin"]
    assert run_names(["x/1/run.txt", "y/1/run.txt"]) == ["x/1/run", "y/1/run"]
    assert run_names(["run.txt", "run.txt"]) == ["run", "run"]


def test_evaluation_loads_no_heavy_package():
    code = (
        "import sys, qpeft_rerank.evaluate, qpeft_rerank.compare, qpeft_rerank.report, qpeft_rerank.plots; "
        "print(*(m for m in ('torch', 'scipy', 'matplotlib', 'pyserini', 'jnius') if m in sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "\n"
    )


def random_collection(rng, topics=25):
    """A run with many ties, and graded qrels; some topics are in one only, one has no relevant document."""
    docids = [f"{letter}{i}" for letter in ("d", "D", "é") for i in range(40)]
    qrels = {
        f"q{t}": {d: rng.choice([-1, 0, 0, 1, 2, 3]) for d in rng.sample(docids, rng.randint(1, 40))}
        for t in range(topics)
    }
    qrels["q3"] = {"d1": 0}
    run = []
    for t in [*range(2, topics), 99]:
        scores = [rng.choice([rng.randint(-3, 3), rng.uniform(-3, 3), 1e-8 * rng.random()]) for _ in docids]
        run.append(
            Ranking(
                f"q{t}", [ScoredDoc(d, s) for d, s in zip(rng.sample(docids, rng.randint(1, 120)), scores)]
            )
        )
    rng.shuffle(run)
    return run, qrels


@pytest.fixture(scope="module")
def trec_eval(tmp_path_factory):
    """The trec_eval in Pyserini's jar for this machine: what `pyserini.eval.trec_eval` runs."""
    import importlib.util

    spec = importlib.util.find_spec("pyserini")
    jars = (
        sorted((Path(spec.origin).parent / "resources" / "jars").glob("*.jar"))
        if spec and spec.origin
        else []
    )
    system, machine = platform.system(), platform.machine().lower()
    kind = {
        ("Linux", "x86_64"): "linux-amd64",
        ("Darwin", "arm64"): "macosx-aarch64",
        ("Darwin", "x86_64"): "macosx-x86_64",
    }
    if not jars or (system, machine) not in kind:
        pytest.skip("no trec_eval for this machine")
    program = tmp_path_factory.mktemp("trec_eval") / "trec_eval"
    with zipfile.ZipFile(jars[-1]) as jar:
        program.write_bytes(jar.read(f"trec_eval/trec_eval-{kind[system, machine]}"))
    program.chmod(0o755)

    def call(qrels, run, level, names):
        options = [option for name in names for option in ("-m", name)]
        command = [program, "-c", "-q", "-l", str(level), *options, qrels, run]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return {(topic, name): value for name, topic, value in (line.split() for line in output.splitlines())}

    return call


TREC_MEASURES = [
    "ndcg",
    "ndcg_cut.1,5,10,100",
    "recip_rank",
    "recall.5,100,1000",
    "map",
    "map_cut.10,100",
    "P.5,30,1000",
    "success.1,5",
    "Rprec",
    "bpref",
    "infAP",
    "iprec_at_recall.0.00,0.10,0.50,1.00",
    "11pt_avg",
    "set_P",
    "set_relative_P",
    "set_recall",
    "set_F",
    "set_map",
    "gm_map",
    "gm_bpref",
    "num_q",
    "num_ret",
    "num_rel",
    "num_rel_ret",
]


@pytest.mark.java
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_the_real_trec_evals_to_four_decimals(trec_eval, tmp_path, seed, level):
    rankings, judgements = random_collection(random.Random(seed))
    run, qrels = tmp_path / "run.txt", tmp_path / "qrels.txt"
    lines = [f"{qid} Q0 {doc.docid} 1 {doc.score!r} t\n" for qid, docs in rankings for doc in docs]
    run.write_text("".join(lines), encoding="utf-8")
    qrels.write_text(
        "".join(f"{q} 0 {d} {g}\n" for q, docs in judgements.items() for d, g in docs.items()),
        encoding="utf-8",
    )
    expected = trec_eval(qrels, run, level, TREC_MEASURES)
    for result in (
        evaluate(run, qrels, TREC_MEASURES, level),
        evaluate(rankings, judgements, TREC_MEASURES, level),
    ):
        for name, value in result.means.items():
            assert f"{value:.4f}" == f"{float(expected['all', name.replace('.', '_', 1)]):.4f}", name
        for (topic, name), value in expected.items():
            ours = {n.replace(".", "_", 1): v for n, v in result.per_topic.get(topic, {}).items()}
            assert topic == "all" or f"{ours[name]:.4f}" == f"{float(value):.4f}", (topic, name)
        assert result.judged == len(judgements)


@pytest.mark.java
def test_reciprocal_rank_at_ten_is_trec_evals_on_the_top_ten(trec_eval, tmp_path):
    """trec_eval has no cutoff for recip_rank: users write -M 10."""
    rankings, judgements = random_collection(random.Random(8))
    run, qrels = tmp_path / "run.txt", tmp_path / "qrels.txt"
    top = [
        (qid, sorted(docs, key=lambda d: (d.score, d.docid.encode()), reverse=True)[:10])
        for qid, docs in (
            (qid, [ScoredDoc(d.docid, round(d.score, 2)) for d in docs]) for qid, docs in rankings
        )
    ]
    run.write_text(
        "".join(f"{q} Q0 {d.docid} 1 {d.score!r} t\n" for q, docs in top for d in docs), encoding="utf-8"
    )
    qrels.write_text(
        "".join(f"{q} 0 {d} {g}\n" for q, docs in judgements.items() for d, g in docs.items()),
        encoding="utf-8",
    )
    whole = [Ranking(qid, [ScoredDoc(d.docid, round(d.score, 2)) for d in docs]) for qid, docs in rankings]
    expected = trec_eval(qrels, run, 1, ["recip_rank"])["all", "recip_rank"]
    assert f"{evaluate(whole, judgements, ['RR@10']).means['RR@10']:.4f}" == expected
