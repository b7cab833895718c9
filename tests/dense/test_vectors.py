"""The files of an encoding are the same however it came about: at once, after kills, by several machines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_models import TEXTS, tiny_base

from qpeft_rerank.dense.causal import CausalEncoder
from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.vectors import encode_corpus, passages_in_shards, read_shards
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage

PASSAGES = [Passage(f"d{i}", "", " ".join(TEXTS[i % 6].split()[: 3 + i])) for i in range(11)]


class Killed(BaseException):
    pass


class Dying:
    """An encoder that is killed while it makes its n-th shard."""

    def __init__(self, encoder, shards):
        self.encoder, self.left, self.config = encoder, shards, encoder.config

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode_passages(self, passages, progress=None):
        if progress is not None:  # not the probe
            if self.left == 0:
                raise Killed
            self.left -= 1
        return self.encoder.encode_passages(passages, progress)


@pytest.fixture(scope="module")
def encoder():
    return CausalEncoder(tiny_base(), EncoderConfig())


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "vectors"
    assert encode(encoder, folder) == 11
    return folder


def encode(encoder, folder, passages=PASSAGES, **options):
    options = {"shard_passages": 3, "progress": lambda n: None, **options}
    return encode_corpus(iter(passages), encoder, folder, **options)


def files(folder):
    """The bytes of the vectors and docids."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith(("vectors-", "docids-"))}


def test_shards_hold_all_passages_in_order(whole, encoder):
    shards = list(read_shards(whole))
    assert [len(shard.docids) for shard in shards] == [3, 3, 3, 2]
    assert [d for shard in shards for d in shard.docids] == [p.docid for p in PASSAGES]
    vectors = np.concatenate([shard.vectors for shard in shards])
    np.testing.assert_allclose(vectors, encoder.encode_passages(PASSAGES), atol=1e-6)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_after_a_kill_resuming_ends_in_the_same_bytes(tmp_path, encoder, whole, shards):
    with pytest.raises(Killed):
        encode(Dying(encoder, shards), tmp_path / "v")
    with pytest.raises(InputError, match="not finished"):
        read_shards(tmp_path / "v")
    assert len(list((tmp_path / "v").glob("vectors-*.npy"))) == shards
    made, kept = [], []
    told = {"progress": made.append, "kept": kept.append}
    assert encode(Dying(encoder, 4 - shards), tmp_path / "v", resume=True, **told) == 11
    assert files(tmp_path / "v") == files(whole)
    assert kept == [3] * shards and sum(made) == 11 - 3 * shards


def test_a_shard_without_its_vectors_is_made_again(tmp_path, encoder, whole):
    encode(encoder, tmp_path / "v")
    (tmp_path / "v" / "vectors-00001.npy").unlink()
    (tmp_path / "v" / "docids-00001.txt").write_text("d3\n")  # cut off
    with pytest.raises(InputError, match="shard 1 of 4"):
        read_shards(tmp_path / "v")
    encode(encoder, tmp_path / "v", resume=True)
    assert files(tmp_path / "v") == files(whole)


def test_several_machines_make_the_same_files(tmp_path, encoder, whole):
    for shard in (2, 0, 1):
        encode(encoder, tmp_path / "v", shard=shard, of=3)
        if shard != 1:
            with pytest.raises(InputError, match="is not there yet"):
                read_shards(tmp_path / "v")
    assert files(tmp_path / "v") == files(whole)
    with pytest.raises(InputError, match="holds vectors already"):
        encode(encoder, tmp_path / "v", shard=1, of=3)


@pytest.mark.parametrize("count", [0, 1, 3, 10, 11, 12])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_how_many_passages_a_machine_encodes_is_known_before(count, of):
    shards = [passages_in_shards(count, 3, shard, of) for shard in range(of)]
    by_hand = [sum(place // 3 % of == shard for place in range(count)) for shard in range(of)]
    assert shards == by_hand


def test_a_corpus_that_fills_its_last_shard_has_no_empty_one(tmp_path, encoder):
    assert encode(encoder, tmp_path / "v", PASSAGES[:6]) == 6
    assert len(list(read_shards(tmp_path / "v"))) == 2


def test_half_precision_is_kept_in_half_the_space(tmp_path, encoder, whole):
    encode(encoder, tmp_path / "v", vector_type="float16")
    for half, full in zip(read_shards(tmp_path / "v"), read_shards(whole), strict=True):
        assert half.vectors.dtype == np.float16
        np.testing.assert_allclose(half.vectors, full.vectors, atol=1e-3)


CHANGES = [
    ({"shard_passages": 4}, "shard_passages differs"),
    ({"vector_type": "float16"}, "vectors differs"),
    ({"passages": PASSAGES[1:]}, "of another corpus"),
    ({"passages": [p._replace(title="New") for p in PASSAGES]}, "0 in .* of another corpus"),
    ({"resume": False}, r"resume \(--resume\), or choose another folder"),
]


@pytest.mark.parametrize("changes, word", CHANGES, ids=[word for _, word in CHANGES])
def test_resuming_something_else_is_an_error(tmp_path, encoder, changes, word):
    with pytest.raises(Killed):
        encode(Dying(encoder, 2), tmp_path / "v")
    with pytest.raises(InputError, match=word):
        encode(encoder, tmp_path / "v", **{"resume": True, **changes})


def test_resuming_with_another_encoder_is_an_error(tmp_path, encoder):
    with pytest.raises(Killed):
        encode(Dying(encoder, 2), tmp_path / "v")
    with pytest.raises(InputError, match="passage_tokens differs"):
        encode(CausalEncoder(tiny_base(), EncoderConfig(passage_tokens=10)), tmp_path / "v", resume=True)
    with pytest.raises(InputError, match="another encoder"):
        encode(CausalEncoder(tiny_base(seed=1), EncoderConfig()), tmp_path / "v", resume=True)


def test_an_empty_corpus_and_a_damaged_file_are_errors(tmp_path, encoder):
    with pytest.raises(InputError, match="no passages"):
        encode(encoder, tmp_path / "v", [])
    encode(encoder, tmp_path / "v")
    done = tmp_path / "v" / "shards-0-of-1.json"
    whole = done.read_text()
    done.write_text("{}")
    with pytest.raises(InputError, match="shards-0-of-1.json: cannot be read"):
        read_shards(tmp_path / "v")
    done.write_text(whole)
    (tmp_path / "v" / "vectors-00000.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="vectors-00000.npy"):
        list(read_shards(tmp_path / "v"))
    (tmp_path / "v" / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="manifest.json"):
        read_shards(tmp_path / "v")
