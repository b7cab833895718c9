"""Names of measures: both spellings mean the same, and a wrong name is an error that helps."""

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.measures import FAMILIES, known_measures, parse_measures


@pytest.mark.parametrize(
    "ours, trec",
    [
        ("nDCG", "ndcg"),
        ("nDCG@10", "ndcg_cut.10"),
        ("RR", "recip_rank"),
        ("R@100", "recall.100"),
        ("AP", "map"),
        ("AP@100", "map_cut.100"),
        ("P@30", "P.30"),
        ("Success@5", "success.5"),
        ("Rprec", "Rprec"),
        ("Bpref", "bpref"),
        ("IPrec@0.1", "iprec_at_recall.0.10"),
        ("SetP", "set_P"),
        ("NumRet", "num_ret"),
    ],
)
def test_both_spellings_ask_pytrec_eval_for_the_same(ours, trec):
    first, second = parse_measures([ours, trec]) if ours != trec else parse_measures([ours]) * 2
    assert first.request == second.request == trec
    assert first.family is second.family


@pytest.mark.parametrize(
    "alias, name",
    [
        ("MRR@10", "RR@10"),
        ("MAP", "AP"),
        ("hit@5", "Success@5"),
        ("Hits@5", "Success@5"),
        ("Recall@100", "R@100"),
        ("NDCG@10", "nDCG@10"),
        ("ndcg@10", "nDCG@10"),
        ("map@100", "AP@100"),
        ("ndcg_cut_10", "nDCG@10"),
        ("P_30", "P@30"),
    ],
)
def test_aliases_and_letter_case_are_accepted(alias, name):
    (ours,), (canonical,) = parse_measures([alias]), parse_measures([name])
    assert (ours.family, ours.cutoff, ours.request) == (canonical.family, canonical.cutoff, canonical.request)
    assert ours.spelling == alias


def test_order_and_spelling_are_the_users_and_repeats_are_dropped():
    names = [m.spelling for m in parse_measures(["RR@10", "ndcg_cut.10", "nDCG@10 AP", "RR@10"])]
    assert names == ["RR@10", "ndcg_cut.10", "nDCG@10", "AP"]


def test_a_level_in_the_name_is_kept():
    (measure,) = parse_measures(["AP(rel=2)@100"])
    assert (measure.level, measure.cutoff, measure.request) == (2, 100, "map_cut.100")


def test_lists_of_cutoffs_give_one_measure_each():
    assert [m.spelling for m in parse_measures(["recall.5,10", "P@1,3"])] == [
        "recall.5",
        "recall.10",
        "P@1",
        "P@3",
    ]


def test_trec_evals_nicknames_and_default_cutoffs():
    assert [m.spelling for m in parse_measures(["success"])] == ["success.1", "success.5", "success.10"]
    official = [m.spelling for m in parse_measures(["official"])]
    assert official[:5] == ["num_q", "num_ret", "num_rel", "num_rel_ret", "map"]
    assert "iprec_at_recall.0.10" in official and "P.1000" in official


def test_an_unknown_name_lists_what_is_known():
    with pytest.raises(InputError, match=r"unknown measure 'nDGC@10'; known are nDCG\[@k\] RR\[@k\] R@k"):
        parse_measures(["nDGC@10"])


def test_the_list_of_known_measures_names_every_family():
    listed = known_measures().replace("[@k]", "").replace("@k", "").replace(";", "").split()
    assert {family.name for family in FAMILIES} <= set(listed)


@pytest.mark.parametrize(
    "name, message",
    [
        ("R", "needs a cutoff, as in R@10 or recall.10"),
        ("Judged", "needs a cutoff, as in Judged@10"),
        ("Rprec@10", "takes no cutoff"),
        ("ndcg.10", "is written nDCG@10 or ndcg_cut.10"),
        ("recip_rank.10", "is written RR@10"),
        ("RR@0", "a rank, 1 or more"),
        ("P@1.5", "a rank, 1 or more"),
        ("IPrec@2", "from 0 to 1"),
        ("nDCG(rel=2)@10", "does not depend on a relevance level"),
        ("AP(rel=99999999999)", "from 1 to 10000"),
        ("AP(rel=0)", "from 1 to 10000"),
    ],
)
def test_a_wrong_cutoff_or_level_says_what_to_write(name, message):
    with pytest.raises(InputError, match="measure") as caught:
        parse_measures([name])
    assert message in str(caught.value)


def test_measures_of_ir_measures_go_by_their_names():
    ir_measures = pytest.importorskip("ir_measures")
    names = [m.spelling for m in parse_measures([ir_measures.nDCG @ 10, ir_measures.RR(rel=2) @ 10])]
    assert names == ["nDCG@10", "RR(rel=2)@10"]


def test_a_list_with_commas_says_how_to_write_it():
    with pytest.raises(InputError, match="put apart by blanks"):
        parse_measures(["nDCG@10,RR@10"])


def test_no_measure_is_an_error():
    with pytest.raises(InputError, match="no measure"):
        parse_measures([" "])
