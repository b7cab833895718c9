"""Evaluation: what counts, what does not, what is an error; and agreement with the real trec_eval."""

import importlib.util
import platform
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import evaluate, run_names
from qpeft_rerank.trec import Ranking, ScoredDoc


def ranking(qid, *docids, score=None):
    """Documents in this order; with a score, all of them tied."""
    scores = range(len(docids), 0, -1) if score is None else [score] * len(docids)
    return Ranking(qid, [ScoredDoc(docid, float(s)) for docid, s in zip(docids, scores, strict=True)])


def test_a_topic_without_results_counts_zero():
    result = evaluate([ranking("1", "a")], {"1": {"a": 1}, "2": {"b": 1}}, ["nDCG@10", "RR"])
    assert result.per_topic == {"1": {"nDCG@10": 1.0, "RR": 1.0}, "2": {"nDCG@10": 0.0, "RR": 0.0}}
    assert result.means == {"nDCG@10": 0.5, "RR": 0.5}
    assert (result.judged, result.retrieved, result.missing) == (2, 1, 1)


def test_a_topic_without_a_relevant_document_counts_zero_too():
    run = [ranking("1", "a"), ranking("2", "b")]
    assert evaluate(run, {"1": {"a": 1}, "2": {"b": 0}}, ["RR"]).means == {"RR": 0.5}


def test_a_run_may_be_what_pytrec_eval_takes():
    run, qrels = {"1": {"a": 2.0, "b": 1.0}, "2": {"c": 0.5}}, {"1": {"b": 1}, "2": {"c": 1}}
    rankings = [ranking("1", "a", "b"), ranking("2", "c")]
    assert evaluate(run, qrels, ["RR"]).per_topic == evaluate(rankings, qrels, ["RR"]).per_topic
    with pytest.raises(InputError, match="topic '1' has a score that is no number"):
        evaluate({"1": {"a": None}}, qrels, ["RR"])


def test_topics_that_are_not_judged_are_left_out_and_counted():
    run = [ranking("1", "a"), ranking("8", "a"), ranking("9", "a")]
    result = evaluate(run, {"1": {"a": 1}, "8": {}}, ["RR"])
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
    means = evaluate(run, {"1": {f"d{rank}": 1}}, ["RR@10", "RR"]).means
    assert means == {"RR@10": pytest.approx(value), "RR": pytest.approx(1 / rank)}


def test_the_relevance_level_holds_for_binary_measures_only():
    run, qrels = [ranking("1", "a", "b")], {"1": {"a": 1, "b": 2}}
    low, high = (evaluate(run, qrels, ["nDCG@10", "AP", "R@1"], level).means for level in (1, 2))
    assert low["nDCG@10"] == high["nDCG@10"] < 1.0
    assert (low["AP"], high["AP"]) == (1.0, 0.5)
    assert (low["R@1"], high["R@1"]) == (0.5, 0.0)


def test_a_level_in_the_name_wins():
    names = ["AP", "AP(rel=2)", "AP(rel=3)", "NumRel(rel=2)"]
    means = evaluate([ranking("1", "a", "b")], {"1": {"a": 1, "b": 2}}, names).means
    assert means == {"AP": 1.0, "AP(rel=2)": 0.5, "AP(rel=3)": 0.0, "NumRel(rel=2)": 1.0}


def test_negative_grades_are_not_relevant_and_do_no_harm():
    qrels = {"1": {"a": -2}, "2": {"a": -2, "b": 1}}
    result = evaluate([ranking("1", "a"), ranking("2", "a", "b")], qrels, ["nDCG@10", "RR", "AP"])
    assert result.per_topic["1"] == {"nDCG@10": 0.0, "RR": 0.0, "AP": 0.0}
    assert result.per_topic["2"]["RR"] == 0.5


def test_topics_with_negative_grades_only_count_zero():
    """pytrec_eval alone would take what the topic before them left in its memory, and never end."""
    run = [ranking(str(i), *"abcdefgh") for i in range(40)]
    qrels = {str(i): {d: grade for d in "abcdefgh"} for i, grade in enumerate([3, -1, 2, -2, 9, -1] * 6)}
    result = evaluate(run, qrels, ["nDCG@10", "AP", "Bpref", "infAP", "Rprec"])
    assert all(set(result.per_topic[str(i)].values()) == {0.0} for i in range(1, 36, 2))
    assert result.means["AP"] == 0.5


def test_judged_is_the_share_of_judged_documents_among_those_that_are_there():
    run, qrels = [ranking("1", "a", "x", "b", "y")], {"1": {"a": 1, "b": 0, "z": 1}}
    means = evaluate(run, qrels, ["Judged@1", "Judged@2", "Judged@10"]).means
    assert means == {"Judged@1": 1.0, "Judged@2": 0.5, "Judged@10": 0.5}


def test_counts_are_sums_and_all_judged_topics_are_counted():
    run, qrels = [ranking("1", "x", "a", "y")], {"1": {"a": 1}, "2": {"b": 1, "c": 1}}
    means = evaluate(run, qrels, ["num_q", "num_ret", "num_rel", "num_rel_ret"]).means
    assert means == {"num_q": 2, "num_ret": 3, "num_rel": 3, "num_rel_ret": 1}


@pytest.mark.parametrize("seed", range(5))
def test_the_values_do_not_depend_on_what_else_is_asked(seed):
    """Documents below the last judged one are left away where no measure needs them."""
    run, qrels = random_collection(seed)
    names = "nDCG@5 RR@3 P@4 AP Bpref infAP Rprec SetP SetF IPrec@0.2 11pt_avg nDCG Judged@7 R@50".split()
    together = evaluate(run, qrels, names)
    for name in names:
        alone = evaluate(run, qrels, [name])
        assert {q: v[name] for q, v in together.per_topic.items()} == {
            q: v[name] for q, v in alone.per_topic.items()
        }


def test_values_equal_pytrec_evals_on_whole_runs():
    import pytrec_eval

    run, qrels = random_collection(3)
    asked = "ndcg_cut.10 map recall.100 P.5 bpref infAP Rprec set_F success.1 recip_rank".split()
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(asked))
    expected = evaluator.evaluate({qid: dict(docs) for qid, docs in run})
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
        ([Ranking("007", [ScoredDoc("a", "high")])], "topic '007' has a score that is no number"),
        ([Ranking("007", [ScoredDoc(7, 1.0)])], "topic '007' has an id that is not text"),
        ([Ranking("007", [ScoredDoc("\ud800", 1.0)])], "topic '007' has an id that is not text"),
        ([Ranking("007", [ScoredDoc("a\0", 1.0)])], "topic '007' has an id with a NUL"),
    ],
)
def test_a_run_that_hides_a_mistake_is_an_error(run, message):
    with pytest.raises(InputError) as caught:
        evaluate(run, {"007": {"a": 1}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "qrels, message",
    [
        ({}, "the qrels are empty"),
        ({"1": {}}, "the qrels are empty"),
        ({"1": {"a": 10**8}}, "grade 100000000"),
        ({"1": {"\ud800": 1}}, "topic '1' has an id that is not text"),
        ({1: {"a": 1}}, "topic 1 has an id that is not text"),
    ],
)
def test_qrels_that_cannot_be_used_are_an_error(qrels, message):
    with pytest.raises(InputError) as caught:
        evaluate([ranking("1", "a")], qrels)
    assert message in str(caught.value)


@pytest.mark.parametrize("level", [0, -1, 1.5, True, 10**10])
def test_an_impossible_relevance_level_is_an_error(level):
    with pytest.raises(InputError, match="relevance level must be a whole number from 1"):
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
    run = (ranking(str(i), "a") for i in range(3))
    result = evaluate(run, {str(i): {"a": 1} for i in range(3)}, ["RR"])
    assert (result.name, result.means) == ("run", {"RR": 1.0})


@pytest.mark.parametrize(
    "runs, names",
    [
        (["x/run.bm25.txt", "y/run.qpeft.txt.gz", "-"], ["run.bm25", "run.qpeft", "stdin"]),
        (["x/1/run.txt", "y/1/run.txt"], ["x/1/run", "y/1/run"]),
        (["/run.txt", "x/run.txt"], ["/run", "x/run"]),
        (["x/run.txt", "x/run.txt"], ["run", "run"]),
        (["x/res"], ["res"]),
    ],
)
def test_run_names_are_as_long_as_needed(runs, names):
    assert run_names(runs) == names


def test_evaluation_loads_no_heavy_package():
    code = (
        "import sys, qpeft_rerank.evaluation, qpeft_rerank.significance\n"
        "import qpeft_rerank.report, qpeft_rerank.plots\n"
        "print(*({'torch', 'scipy', 'matplotlib', 'pyserini', 'jnius'} & sys.modules.keys()))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "\n"


def random_collection(seed, topics=25):
    """A run with many ties, and graded qrels; some topics are in one only, one has no relevant document."""
    rng = random.Random(seed)
    docids = [f"{letter}{i}" for letter in ("d", "D", "é") for i in range(40)]
    qrels = {
        f"q{t}": {docid: rng.choice([-1, 0, 0, 1, 2, 3]) for docid in rng.sample(docids, rng.randint(1, 40))}
        for t in range(topics)
    }
    qrels["q3"] = {"d1": 0}
    run = []
    for t in [*range(2, topics), 99]:
        docs = rng.sample(docids, rng.randint(1, len(docids)))
        scores = [rng.choice([rng.randint(-3, 3), rng.uniform(-3, 3), 1e-8 * rng.random()]) for _ in docs]
        run.append(Ranking(f"q{t}", [ScoredDoc(d, s) for d, s in zip(docs, scores, strict=True)]))
    rng.shuffle(run)
    return run, qrels


@pytest.fixture(scope="module")
def trec_eval(tmp_path_factory):
    """The trec_eval in Pyserini's jar for this machine: what `pyserini.eval.trec_eval` runs."""
    spec = importlib.util.find_spec("pyserini")
    builds = {
        ("Linux", "x86_64"): "linux-amd64",
        ("Darwin", "arm64"): "macosx-aarch64",
        ("Darwin", "x86_64"): "macosx-x86_64",
    }
    build = builds.get((platform.system(), platform.machine()))
    if spec is None or build is None:
        pytest.skip("no trec_eval for this machine")
    (jar,) = (Path(spec.origin).parent / "resources" / "jars").glob("anserini-*.jar")
    program = tmp_path_factory.mktemp("trec_eval") / "trec_eval"
    with zipfile.ZipFile(jar) as members:
        program.write_bytes(members.read(f"trec_eval/trec_eval-{build}"))
    program.chmod(0o755)

    def call(run, qrels, folder, *options):
        """(topic or "all", trec_eval's name) -> value."""
        run_file, qrels_file = folder / "run.txt", folder / "qrels.txt"
        lines = [f"{qid} Q0 {docid} 1 {score!r} t\n" for qid, docs in run for docid, score in docs]
        run_file.write_text("".join(lines), encoding="utf-8")
        lines = [f"{qid} 0 {docid} {grade}\n" for qid, docs in qrels.items() for docid, grade in docs.items()]
        qrels_file.write_text("".join(lines), encoding="utf-8")
        command = [program, "-c", "-q", *options, qrels_file, run_file]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return {(topic, name): float(value) for name, topic, value in map(str.split, output.splitlines())}

    return call


TREC_MEASURES = (
    "ndcg ndcg_cut.1,5,10,100 recip_rank recall.5,100,1000 map map_cut.10,100 P.5,30,1000 success.1,5 Rprec "
    "bpref infAP iprec_at_recall.0.00,0.10,0.50,1.00 11pt_avg set_P set_relative_P set_recall set_F set_map "
    "gm_map gm_bpref num_q num_ret num_rel num_rel_ret"
).split()


@pytest.mark.java
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_the_real_trec_evals_to_four_decimals(trec_eval, tmp_path, seed, level):
    run, qrels = random_collection(seed)
    options = [option for name in TREC_MEASURES for option in ("-m", name)]
    expected = trec_eval(run, qrels, tmp_path, "-l", str(level), *options)
    from_rankings = evaluate(run, qrels, TREC_MEASURES, level)
    from_files = evaluate(tmp_path / "run.txt", tmp_path / "qrels.txt", TREC_MEASURES, level)
    assert from_files.per_topic == from_rankings.per_topic
    figures = {"all": from_files.means, **from_files.per_topic}
    ours = {(t, m.replace(".", "_", 1)): value for t, row in figures.items() for m, value in row.items()}
    assert len(expected) > 500
    for key, value in expected.items():
        assert f"{ours[key]:.4f}" == f"{value:.4f}", key
    assert from_files.judged == len(qrels) == expected["all", "num_q"]


@pytest.mark.java
def test_reciprocal_rank_at_ten_is_trec_evals_on_the_top_ten(trec_eval, tmp_path):
    """trec_eval has no cutoff for recip_rank; its -M cuts the ranking."""
    run, qrels = random_collection(8)
    expected = trec_eval(run, qrels, tmp_path, "-M", "10", "-m", "recip_rank")
    result = evaluate(run, qrels, ["RR@10"])
    assert f"{result.means['RR@10']:.4f}" == f"{expected['all', 'recip_rank']:.4f}"
    for qid, values in result.per_topic.items():
        assert f"{values['RR@10']:.4f}" == f"{expected.get((qid, 'recip_rank'), 0.0):.4f}"


@pytest.mark.parametrize("grade", [0.5, float("nan"), float("-inf"), "1", None])
def test_a_grade_in_a_dictionary_that_is_no_whole_number_is_an_error(grade):
    with pytest.raises(InputError, match="qrels: topic '1', 'a': .* is not a whole number"):
        evaluate({"1": {"a": 1.0}}, {"1": {"a": grade, "b": 1}})
