"""Tables: legible, complete, and the same figures in every format."""

import json
from dataclasses import replace

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.report import WIDTH, format_report
from qpeft_rerank.significance import compare

MEASURES = ("nDCG@10", "R@100", "num_ret")


def evaluation(name, gain=0.0, measures=MEASURES, topics=20, **counts):
    values = {f"q{t}": [0.25 + t / 100 + gain * (1 + t % 3), 0.5, 100.0] for t in range(topics)}
    per_topic = {q: dict(zip(measures, row * len(measures), strict=False)) for q, row in values.items()}
    means = {
        m: sum(row[m] for row in per_topic.values()) / (1 if m == "num_ret" else topics) for m in measures
    }
    return Evaluation(
        name,
        tuple(measures),
        per_topic,
        means,
        **{"judged": topics, "retrieved": topics, "unjudged": 0, **counts},
    )


BM25, QPEFT = evaluation("bm25"), evaluation("qpeft-r", gain=0.02)


def test_one_run_is_one_line_of_figures():
    assert format_report([BM25]) == (
        "run   nDCG@10   R@100  num_ret\nbm25   0.3450  0.5000     2000\n\nMean over 20 judged topics.\n"
    )


def test_several_runs_show_differences_marks_p_values_and_topics_won():
    assert format_report([BM25, QPEFT]) == (
        "run                 nDCG@10    R@100   num_ret\n"
        "bm25                 0.3450   0.5000      2000\n"
        "qpeft-r              0.3840   0.5000      2000\n"
        "  difference        +0.0390*  0.0000        +0\n"
        "  p (Holm)          <0.0001   1.0000         -\n"
        "  wins/ties/losses   20/0/0   0/20/0    0/20/0\n"
        "\n"
        "Mean over 20 judged topics.\n"
        "Differences from bm25.\n"
        "* p < 0.05 in a two-sided paired t-test with Holm's correction over 1 run.\n"
    )


def test_per_topic_values_come_before_the_means_so_that_these_are_seen_last():
    lines = format_report([BM25, QPEFT], per_topic=True).splitlines()
    assert lines[0].split() == ["topic", "run", *MEASURES]
    assert lines[1].split() == ["q0", "bm25", "0.2500", "0.5000", "100"]
    assert lines[2].split()[:2] == ["q0", "qpeft-r"]
    assert lines[42].split() == ["run", *MEASURES]


def test_missing_and_unjudged_topics_are_reported():
    text = format_report([BM25, replace(QPEFT, retrieved=17, unjudged=1)])
    assert "qpeft-r: 3 judged topics without results, counted as 0." in text
    assert "qpeft-r: 1 topic not in the qrels, left out." in text


def test_the_relevance_level_is_named_when_it_is_not_one():
    assert "relevant from grade 2" in format_report([replace(BM25, relevance_level=2)])


def test_text_stays_within_its_width_and_columns_stay_aligned():
    names = tuple(f"nDCG@{k}" for k in range(1, 20))
    runs = [
        evaluation("run.msmarco-v1-passage.bm25-default.dl19-passage.with-a-long-name", 0.0, names),
        evaluation("b", 0.01, names),
    ]
    text = format_report(runs, per_topic=True)
    assert max(map(len, text.splitlines())) <= WIDTH
    heads = [line.split() for line in text.splitlines() if line.startswith(("topic", "run "))]
    assert [name for head in heads if head[0] == "run" for name in head[1:]] == list(names)
    assert [name for head in heads if head[0] == "topic" for name in head[2:]] == list(names)


def test_names_that_would_look_the_same_are_not_cut():
    names = [f"run.squad-every-fourth.{first}qpeft-a-from-nq-qed.test" for first in ("", "bm25+")]
    table = format_report([evaluation(names[0]), evaluation(names[1], 0.02)])
    assert all(f"\n{name} " in table for name in names) and f"Differences from {names[0]}." in table


def test_tsv_has_one_figure_a_line_and_the_same_columns_everywhere():
    rows = [line.split("\t") for line in format_report([BM25, QPEFT], "tsv").splitlines()]
    assert rows[0] == [
        "run",
        "measure",
        "topic",
        "value",
        "difference",
        "p",
        "p_holm",
        "wins",
        "ties",
        "losses",
    ]
    assert {len(row) for row in rows} == {10}
    assert rows[1] == ["bm25", "nDCG@10", "all", "0.345000", *[""] * 6]
    assert rows[4][:5] == ["qpeft-r", "nDCG@10", "all", "0.384000", "0.039000"]
    assert rows[4][7:] == ["20", "0", "0"]


def test_tsv_of_one_run_has_no_columns_of_differences():
    rows = [
        line.split("\t") for line in format_report([evaluation("a\tb")], "tsv", per_topic=True).splitlines()
    ]
    assert rows[0] == ["run", "measure", "topic", "value"]
    assert rows[1] == ["a b", "nDCG@10", "q0", "0.250000"]
    assert len(rows) == 1 + 3 * 21


def test_json_is_complete():
    record = json.loads(format_report([BM25, replace(QPEFT, unjudged=2)], "json", per_topic=True))
    assert record["measures"] == list(MEASURES)
    assert record["runs"][0]["means"] == BM25.means
    assert record["runs"][1]["per_topic"] == QPEFT.per_topic
    assert record["runs"][1]["topics"] == {
        "judged": 20,
        "with_results": 20,
        "without_results": 0,
        "not_judged": 2,
    }
    comparison = record["comparison"]
    assert (comparison["baseline"], comparison["test"], comparison["correction"]) == (
        "bm25",
        "two-sided paired t-test",
        "Holm",
    )
    assert comparison["corrected_over"] == "the runs compared with the first one, for each measure"
    found = comparison["runs"][0]["differences"]["nDCG@10"]
    assert found["wins"] == 20 and found["p"] == found["p_corrected"] < 0.0001 and found["significant"]


def test_json_has_no_per_topic_values_unless_asked_and_no_infinity():
    always_better = evaluation("b")
    for values in always_better.per_topic.values():
        values["nDCG@10"] += 0.1
    record = json.loads(format_report([BM25, always_better], "json"))
    assert "per_topic" not in record["runs"][0]
    assert record["comparison"]["runs"][0]["differences"]["nDCG@10"]["t"] is None
    assert "comparison" not in json.loads(format_report([BM25], "json"))


def test_latex_is_a_booktabs_table_with_marks_and_the_best_in_bold():
    table = format_report([BM25, replace(QPEFT, name="q_peft & 50%")], "latex")
    assert table.startswith("% needs \\usepackage{booktabs}\n\\begin{tabular}{lrrr}\n\\toprule\n")
    assert "Run & nDCG@10 & R@100 & num\\_ret \\\\\n\\midrule\n" in table
    assert "bm25 & 0.3450 & \\textbf{0.5000} & 2000 \\\\\n" in table
    assert "q\\_peft \\& 50\\% & \\textbf{0.3840}\\rlap{$^{*}$} & \\textbf{0.5000}" in table
    assert "\\bottomrule\n\\end{tabular}\n% Mean over 20 judged topics.\n" in table


def test_a_correction_over_the_whole_table_counts_its_tests():
    text = format_report([BM25, QPEFT, QPEFT], comparison=compare([BM25, QPEFT, QPEFT], family="table"))
    assert "Holm's correction over 4 tests.\n" in text


def test_latex_gives_topics_on_request():
    table = format_report([BM25], "latex", per_topic=True)
    assert "\\begin{longtable}{llrrr}" in table and "q0 & bm25 & 0.2500 & 0.5000 & 100 \\\\" in table


def test_wrong_use_is_an_error():
    with pytest.raises(InputError, match="unknown table format 'html'; known are text, tsv, json, latex"):
        format_report([BM25], "html")
    with pytest.raises(InputError, match="no evaluation"):
        format_report([])
