"""`Reranker`: the one object that a notebook needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import TEXTS, save_base, tiny_base, tiny_scorer

import qpeft_rerank
from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.fusion import interpolated
from qpeft_rerank.models.adapter import save_adapter
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker

PASSAGES = [Passage(f"d{i}", "", text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(tiny_scorer(tiny_base(), "qpeft-r"))


def test_the_package_has_it_at_hand() -> None:
    assert qpeft_rerank.Reranker is Reranker


def test_scores_are_log_likelihoods_in_the_order_given(reranker: Reranker) -> None:
    pairs = [("how far", passage) for passage in PASSAGES]
    scores = reranker.score(pairs)
    assert scores.dtype == np.float32 and (scores < 0).all() and len(set(scores.tolist())) == len(pairs)
    assert np.allclose(reranker.score(pairs[::-1])[::-1], scores, atol=1e-4)


def test_pairs_that_were_begun_have_the_same_scores(reranker: Reranker) -> None:
    pairs = [("how far", passage) for passage in PASSAGES]
    begun, heard = [reranker.begin(pairs), reranker.begin(pairs[:2]), reranker.begin([])], []
    assert np.array_equal(begun[1](None), reranker.score(pairs[:2]))
    assert np.array_equal(begun[0](heard.append), reranker.score(pairs)) and sum(heard) == len(pairs)
    assert begun[2](None).shape == (0,)


def test_nothing_to_score_gives_no_scores(reranker: Reranker) -> None:
    assert reranker.score([]).shape == (0,) and reranker.rerank("how far", []) == []


def test_hits_come_back_best_first(reranker: Reranker) -> None:
    ranked = reranker.rerank("how far", PASSAGES)
    scores = reranker.score([("how far", passage) for passage in PASSAGES])
    assert [docid for docid, _ in ranked] == [PASSAGES[i].docid for i in np.argsort(-scores)]
    assert [score for _, score in ranked] == sorted(scores.tolist(), reverse=True)


def test_hits_are_those_of_pyserini(reranker: Reranker) -> None:
    class Document(dict):
        def get(self, field: str) -> str | None:  # as Lucene's Document does
            return super().get(field)

    hits = [
        SimpleNamespace(docid=p.docid, score=1.0, lucene_document=Document(contents=p.text)) for p in PASSAGES
    ]
    alone = reranker.rerank("how far", PASSAGES)
    assert [docid for docid, _ in reranker.rerank("how far", hits)] == [docid for docid, _ in alone]
    with pytest.raises(InputError, match="d0"):
        reranker.rerank("how far", [SimpleNamespace(docid="d0", score=1.0)])


def test_the_score_of_a_hit_counts_as_much_as_the_weight_says(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hit(Passage):
        score = property(lambda self: float(self.docid.removeprefix("d")))

    hits, scores = [Hit(*p) for p in PASSAGES], reranker.score([("how far", p) for p in PASSAGES])
    monkeypatch.setattr("qpeft_rerank.reranker.Passage", SimpleNamespace)  # so that they count as hits
    monkeypatch.setattr("qpeft_rerank.reranker.passage_of_hit", lambda hit: hit)
    for weight in (0.0, 0.3, 1.0):
        monkeypatch.setattr(reranker, "weight", weight)
        first = np.array([hit.score for hit in hits])
        expected = dict(zip((p.docid for p in PASSAGES), interpolated(first, scores, weight), strict=True))
        if weight == 1:
            expected = dict(zip((p.docid for p in PASSAGES), scores.tolist(), strict=True))
        found = reranker.rerank("how far", hits)
        assert {docid: pytest.approx(score, abs=1e-6) for docid, score in found} == expected
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_equal_scores_keep_the_order_of_the_hits(reranker: Reranker) -> None:
    same = [Passage(docid, "", "the very same text") for docid in "cab"]
    assert [docid for docid, _ in reranker.rerank("how far", same)] == ["c", "a", "b"]


def test_it_is_made_from_an_adapter_or_a_model(tmp_path: Path) -> None:
    model = save_base(tmp_path / "model")
    plain = Reranker.from_model(model, device="cpu", batch_size=2, settings={"passage_tokens": 5})
    assert (
        plain.scorer.config.method == "hard-prompt"
        and plain.scorer.config.passage_tokens == 5
        and plain.limits.pairs == 2
    )
    save_adapter(tmp_path / "adapter", tiny_scorer(plain.scorer.base, "qpeft-a"))
    trained = Reranker.from_adapter(str(tmp_path / "adapter"), batch_tokens=100, device="cpu")
    assert trained.scorer.config.method == "qpeft-a" and trained.limits.tokens == 100
    assert trained.rerank("how far", PASSAGES) != plain.rerank("how far", PASSAGES)


@pytest.mark.parametrize("query", ["", " \t\n"])
def test_a_blank_query_is_an_error(reranker: Reranker, query: str) -> None:
    with pytest.raises(InputError, match="the query is blank"):
        reranker.rerank(query, PASSAGES)


@pytest.mark.parametrize(
    "method, settings", [("qpeft-a", {}), ("rankllama", {}), ("hard-prompt", {"soft_prompt": True})]
)
def test_what_must_be_trained_is_not_made_of_random_weights(method: str, settings: dict) -> None:
    with pytest.raises(InputError, match=f"the method {method} must be trained"):
        Reranker.from_model(tiny_base(), method, settings=settings)


def test_a_pair_that_does_not_fit_is_an_error(reranker: Reranker) -> None:
    with pytest.raises(PairError) as error:
        reranker.score([("how far", PASSAGES[0]), ("far " * 1000, PASSAGES[0])])
    assert error.value.index == 1 and error.value.tokens > 1000
    for ask in (reranker.rerank, lambda query, passages: reranker.explain(query, passages[0])):
        with pytest.raises(PairError, match=f"^passage {PASSAGES[0].docid!r} .*the query is too long"):
            ask("far " * 1000, PASSAGES)


def test_a_pair_is_explained_as_rerank_takes_it(reranker: Reranker) -> None:
    class Document(dict):
        def get(self, field: str) -> str | None:  # as Lucene's Document does
            return super().get(field)

    passage = PASSAGES[0]
    hit = SimpleNamespace(docid="d0", score=1.0, lucene_document=Document(contents=passage.text))
    assert reranker.explain("how far", hit) == reranker.explain("how far", passage)
    for blank in ("", " \t"):
        with pytest.raises(InputError, match="the query is blank"):
            reranker.explain(blank, passage)


@pytest.mark.parametrize("text, some", [("12 34 the of", False), ("12 camels", True)])
def test_hints_that_the_model_does_not_see_are_not_listed(text: str, some: bool) -> None:
    attending = Reranker(tiny_scorer(tiny_base(), "qpeft-a"))
    assert bool(attending.explain("how far", Passage("d", "", text)).hints) is some
