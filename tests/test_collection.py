"""A collection file names index, corpus, topics and qrels once, with paths relative to itself."""

import pytest

from qpeft_rerank.collection import load_collection
from qpeft_rerank.errors import FormatError, InputError

SQUAD = """
name = "squad"
index = "indexes/squad"
corpus = "corpus.jsonl"

[topics]
train = "topics.train.tsv"
test = "topics.test.tsv"

[qrels]
test = "qrels.test.txt"
"""


@pytest.fixture
def squad(tmp_path):
    (tmp_path / "topics.test.tsv").write_text("1\ta\n")
    (tmp_path / "qrels.test.txt").write_text("1 0 d 1\n")
    return write(tmp_path, SQUAD)


def write(folder, text):
    path = folder / "squad.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_are_relative_to_the_file(squad, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    collection = load_collection(squad)
    assert collection.topics_of("test") == str(tmp_path / "topics.test.tsv")
    assert collection.qrels_of("test") == str(tmp_path / "qrels.test.txt")
    assert collection.corpus == str(tmp_path / "corpus.jsonl")


def test_an_index_that_is_not_built_yet_is_a_path_all_the_same(squad, tmp_path):
    assert load_collection(squad).index == str(tmp_path / "indexes/squad")


def test_names_without_a_file_are_kept(tmp_path):
    collection = load_collection(
        write(tmp_path, 'index = "msmarco-v1-passage"\n[topics]\ntest = "dl19-passage"\n')
    )
    assert collection.index == "msmarco-v1-passage"
    assert collection.topics_of("test") == "dl19-passage"
    assert collection.passages() == {"index": "msmarco-v1-passage"}


def test_a_bare_file_name_is_beside_the_toml_file_and_never_in_the_working_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    for name in ("topics.tsv", "qrels.txt", "run-of-mine", "squad/segments_1"):
        (elsewhere / name).parent.mkdir(exist_ok=True, parents=True)
        (elsewhere / name).touch()
    monkeypatch.chdir(elsewhere)
    text = (
        'index = "squad"\n[topics]\ntest = "topics.tsv"\ndev = "run-of-mine"\n[qrels]\ntest = "qrels.txt"\n'
    )
    collection = load_collection(write(tmp_path, text))
    assert collection.topics_of("test") == str(tmp_path / "topics.tsv")
    assert collection.topics_of("dev") == str(tmp_path / "run-of-mine")
    assert collection.qrels_of("test") == str(tmp_path / "qrels.txt")
    assert collection.index == collection.index_folder() == str(tmp_path / "squad")


def test_a_bare_index_name_is_a_folder_where_one_is_or_is_to_be(tmp_path):
    toml = write(tmp_path, 'index = "squad"\ncorpus = "corpus.jsonl"\n')
    assert load_collection(toml).index_folder() == str(tmp_path / "squad"), "where it is built"
    assert load_collection(toml).passages() == {"corpus": str(tmp_path / "corpus.jsonl")}
    (tmp_path / "squad").mkdir()
    assert load_collection(toml).index == load_collection(toml).index_folder() == str(tmp_path / "squad")
    assert load_collection(toml).passages() == {"index": str(tmp_path / "squad")}


def test_the_index_folder_of_a_file_named_relatively(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", 'index = "indexes/squad"\n')
    monkeypatch.chdir(tmp_path)
    assert load_collection("sub/squad.toml").index_folder() == "sub/indexes/squad"
    monkeypatch.chdir(tmp_path / "sub")
    assert load_collection("squad.toml").index_folder() == "indexes/squad"


def test_absolute_and_home_paths_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    collection = load_collection(write(tmp_path, 'index = "~/index"\ncorpus = "/data/corpus.jsonl"\n'))
    assert collection.index == str(tmp_path / "home/index")
    assert collection.corpus == "/data/corpus.jsonl"


def test_passages_come_from_the_corpus_as_long_as_there_is_no_index(squad, tmp_path):
    assert load_collection(squad).passages() == {"corpus": str(tmp_path / "corpus.jsonl")}
    (tmp_path / "indexes/squad").mkdir(parents=True)
    assert load_collection(squad).passages() == {"index": str(tmp_path / "indexes/squad")}


def test_the_name_is_the_files_own_if_none_is_given(tmp_path):
    assert load_collection(write(tmp_path, "")).name == "squad"


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('name = "marked"\n', encoding="utf-8-sig")
    assert load_collection(path).name == "marked"


def test_a_missing_split_names_the_splits_there_are(squad):
    with pytest.raises(InputError, match="no topics of split 'dev'; there are train, test"):
        load_collection(squad).topics_of("dev")
    with pytest.raises(InputError, match="no qrels of split 'train'; there are test"):
        load_collection(squad).qrels_of("train")


@pytest.mark.parametrize(
    "text, message",
    [
        ("name = ", "not a TOML file"),
        ('indx = "a"', "unknown key 'indx'; known are name, index, corpus"),
        ("index = 3", "index: 3 is not a text"),
        ('topics = "a.tsv"', r"topics: expected a table \[topics\]"),
        ("[topics]\ntest = 7", "topics.test: 7 is not a text"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, message):
    with pytest.raises(FormatError, match="squad.toml: " + message):
        load_collection(write(tmp_path, text))


def test_a_file_that_is_not_there_or_is_a_folder_or_no_text(tmp_path):
    with pytest.raises(InputError, match="no such collection file"):
        load_collection(tmp_path / "no.toml")
    with pytest.raises(InputError, match="is a folder"):
        load_collection(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(FormatError, match="not a TOML file"):
        load_collection(tmp_path / "latin.toml")
