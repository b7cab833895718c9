"""DPR's JSON goes to TREC files and comes back; large files are read one record at a time."""

import gzip
import io
import json

import pytest

from qpeft_rerank import json_records
from qpeft_rerank.dpr import dpr_to_trec, read_answers, trec_to_dpr, trec_to_dpr_retrieval
from qpeft_rerank.errors import FormatError, InputError, MissingPassageError, MissingTopicError
from qpeft_rerank.json_records import read_records
from qpeft_rerank.passages import Passage
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import load_run, read_qrels, read_run


def ctx(number, **more):
    return {"title": f"Title {number}", "text": f"It’s text {number} ü", **more}


TRAINING = [
    {
        "question_id": "q1",
        "question": "who’s first",
        "answers": ["Adam", "Eve"],
        "positive_ctxs": [ctx(1, passage_id="1", score=9.5), ctx(2, passage_id="2")],
        "negative_ctxs": [],
        "hard_negative_ctxs": [ctx(3, passage_id="3", score=12.5), ctx(4, passage_id="4", score=11.25)],
    },
    {
        "question_id": "q2",
        "question": "who is second",
        "answers": [],
        "positive_ctxs": [ctx(4, passage_id="4")],
        "negative_ctxs": [],
        "hard_negative_ctxs": [ctx(1, passage_id="1", score=3.0)],
    },
]

RETRIEVAL = [
    {
        "question_id": "q1",
        "question": "who’s first",
        "answers": ["Adam"],
        "ctxs": [
            {"id": "wiki:3", **ctx(3), "score": 82.5, "has_answer": False},
            {"id": "wiki:1", **ctx(1), "score": 80.25, "has_answer": True},
        ],
    },
    {
        "question_id": "q2",
        "question": "who is second",
        "answers": [],
        "ctxs": [{"id": "wiki:1", **ctx(1), "score": 80.25, "has_answer": False}],
    },
]


class Corpus:
    """The passages of a converted corpus file."""

    name = "corpus.jsonl"

    def __init__(self, path):
        self.passages = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            text = record["contents"].removeprefix(record["title"] + "\n")
            self.passages[record["id"]] = Passage(record["id"], record["title"], text)

    def get(self, docids):
        return {docid: self.passages[docid] for docid in docids if docid in self.passages}


def convert(tmp_path, records):
    source = tmp_path / "dpr.json"
    source.write_text(records if isinstance(records, str) else json.dumps(records), encoding="utf-8")
    return dpr_to_trec(source, tmp_path / "trec")


def test_training_json_becomes_topics_qrels_run_and_corpus(tmp_path):
    assert convert(tmp_path, TRAINING) == 2
    folder = tmp_path / "trec"
    assert read_topics(folder / "topics.tsv") == {"q1": "who’s first", "q2": "who is second"}
    assert read_qrels(folder / "qrels.txt") == {"q1": {"1": 1, "2": 1}, "q2": {"4": 1}}
    run = load_run(folder / "run.txt")
    assert run["q1"].docs == [("3", 12.5), ("4", 11.25)]
    assert run["q2"].docs == [("1", 3.0)]
    assert sorted(Corpus(folder / "corpus.jsonl").passages) == ["1", "2", "3", "4"]
    assert read_answers(folder / "answers.jsonl") == {"q1": ["Adam", "Eve"], "q2": []}


def test_retrieval_json_judges_every_passage_with_has_answer(tmp_path):
    assert convert(tmp_path, RETRIEVAL) == 2
    # A topic without any answer is judged, too: it must count 0 in a mean.
    qrels = {"q1": {"wiki:3": 0, "wiki:1": 1}, "q2": {"wiki:1": 0}}
    assert read_qrels(tmp_path / "trec" / "qrels.txt") == qrels
    assert load_run(tmp_path / "trec" / "run.txt")["q1"].docs == [("wiki:3", 82.5), ("wiki:1", 80.25)]


@pytest.mark.parametrize("records, back", [(TRAINING, trec_to_dpr), (RETRIEVAL, trec_to_dpr_retrieval)])
def test_what_went_to_trec_files_comes_back(tmp_path, records, back):
    convert(tmp_path, records)
    folder = tmp_path / "trec"
    written = back(
        read_topics(folder / "topics.tsv"),
        read_run(folder / "run.txt"),
        read_qrels(folder / "qrels.txt"),
        Corpus(folder / "corpus.jsonl"),
        tmp_path / "back.json",
        read_answers(folder / "answers.jsonl"),
    )
    assert written == 2
    expected = json.loads(json.dumps(records))
    if back is trec_to_dpr:
        del expected[0]["positive_ctxs"][0]["score"]  # qrels know no scores
    assert json.loads((tmp_path / "back.json").read_text(encoding="utf-8")) == expected
    assert "’" in (tmp_path / "back.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"qid": "2", "answers": "Paris"}', "'answers' is missing or not a list of strings"),
        ('{"qid": "2"}', "'answers' is missing"),
        ('{"answers": []}', "expected a JSON object with qid and answers"),
        ('["2", []]', "expected a JSON object"),
        ('{"qid": 1, "answers": []}', "qid '1' comes twice"),
        ('{"qid": "2", "ans', "expected a JSON object"),
    ],
)
def test_a_wrong_line_of_answers_is_an_error_with_file_and_line(tmp_path, line, message):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"qid": "1", "answers": ["Rome"]}\n\n' + line)
    with pytest.raises(FormatError, match=f"answers.jsonl:3: {message}"):
        read_answers(path)


def test_topics_without_a_positive_are_left_out_of_training_json(tmp_path):
    convert(tmp_path, TRAINING)
    folder = tmp_path / "trec"
    out = io.StringIO()
    arguments = read_topics(folder / "topics.tsv"), read_run(folder / "run.txt")
    assert trec_to_dpr(*arguments, {"q1": {"1": 0}}, Corpus(folder / "corpus.jsonl"), out) == 0
    assert json.loads(out.getvalue()) == []


def test_a_topic_or_passage_that_is_missing_is_named(tmp_path):
    convert(tmp_path, RETRIEVAL)
    folder = tmp_path / "trec"
    corpus = Corpus(folder / "corpus.jsonl")
    with pytest.raises(MissingTopicError, match="'q1'"):
        trec_to_dpr_retrieval({}, read_run(folder / "run.txt"), {}, corpus, io.StringIO())
    del corpus.passages["wiki:1"]
    with pytest.raises(MissingPassageError, match="'wiki:1' .*'q1'.* corpus.jsonl"):
        trec_to_dpr_retrieval({"q1": "x"}, read_run(folder / "run.txt"), {}, corpus, io.StringIO())


def test_ids_that_are_absent_are_made_and_stay_the_same(tmp_path):
    records = [{"question": f"question {n}", "ctxs": [ctx(1), ctx(2), ctx(1)]} for n in range(2)]
    convert(tmp_path, records)
    run = load_run(tmp_path / "trec" / "run.txt")
    assert list(run) == ["1", "2"]
    docids = [doc.docid for doc in run["1"].docs]
    assert len(set(docids)) == 2 and docids == [doc.docid for doc in run["2"].docs]
    assert list(Corpus(tmp_path / "trec" / "corpus.jsonl").passages) == docids
    first = (tmp_path / "trec" / "corpus.jsonl").read_bytes()
    convert(tmp_path, records)
    assert (tmp_path / "trec" / "corpus.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    "scores, expected",
    [
        (["82.5", "81", "81"], [82.5, 81.0, 81.0]),  # DPR writes strings
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),  # do not agree with the order: made from the rank
        ([9.0, None, 8.0], [3.0, 2.0, 1.0]),
        ([9.0, "nan", 8.0], [3.0, 2.0, 1.0]),
    ],
)
def test_the_order_of_the_passages_is_kept_whatever_their_scores(tmp_path, scores, expected):
    ctxs = [ctx(n, id=f"d{n}", score=score) for n, score in enumerate(scores)]
    convert(tmp_path, [{"id": 7, "question": "x", "ctxs": ctxs}])
    docs = load_run(tmp_path / "trec" / "run.txt")["7"].docs
    assert [doc.docid for doc in docs] == ["d0", "d1", "d2"]
    assert [doc.score for doc in docs] == pytest.approx(expected, rel=1e-6)


def test_random_negatives_are_in_the_corpus_but_not_in_the_run(tmp_path):
    record = {**TRAINING[0], "negative_ctxs": [ctx(9, passage_id="9")]}
    convert(tmp_path, [record])
    assert "9" in Corpus(tmp_path / "trec" / "corpus.jsonl").passages
    assert "9" not in dict(load_run(tmp_path / "trec" / "run.txt")["q1"].docs)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"question": 7, "ctxs": []}, "'question' is missing or not a string"),
        ({"question": "x"}, "none of: positive_ctxs"),
        ({"question": "x", "ctxs": ["d1"]}, "'ctxs' is not a list of passages"),
        ({"question": "x", "ctxs": [{"id": "d1"}]}, "'text' is missing"),
        ({"question": "x", "ctxs": [ctx(1, id="d 1")]}, "'id' has white space"),
        ({"question": "x", "ctxs": [ctx(1, id=1.5)]}, "'id' is not a string or an integer"),
        ({"question": "x", "ctxs": [ctx(1, has_answer="yes")]}, "'has_answer' of passage"),
        ({"question": "x", "answers": "y", "ctxs": []}, "'answers' is missing or not a list of strings"),
        ({"question": "x", "answers": [7], "ctxs": []}, "'answers' is missing or not a list of strings"),
        ({"question": "\ud800", "ctxs": []}, "surrogate"),
        ({"question_id": "q1", "question": "x", "ctxs": []}, "'q1' comes twice"),
    ],
)
def test_a_wrong_record_is_named_by_its_number_and_nothing_is_written(tmp_path, record, message):
    with pytest.raises(FormatError, match=f"dpr.json: record 2: .*{message}"):
        convert(tmp_path, [TRAINING[0], record])
    assert list((tmp_path / "trec").iterdir()) == []


def test_an_output_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "trec").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        convert(tmp_path, TRAINING)


RECORDS = [{"question": 'a ] } , “quoted” \\ " text', "n": [n, {"deep": []}]} for n in range(50)]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_arrays_and_lines_give_the_same_records_however_they_are_cut(monkeypatch, chunk):
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    for text in (
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2, ensure_ascii=False) + "\n",
        "\n".join(map(json.dumps, RECORDS)),
        "\r\n\r\n".join(json.dumps(record, indent=1) for record in RECORDS) + "\n",
    ):
        assert list(read_records(io.StringIO(text))) == list(enumerate(RECORDS, 1))
    for text in ("", " \n", "[]", " [ ] \n"):
        assert list(read_records(io.StringIO(text))) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ('[{"a": 1}, {"a": ', "record 2: not JSON: .*cut off"),
        ('[{"a": 1}', "after record 1: the array is cut off"),
        ('[{"a": 1} {"a": 2}]', "after record 1: expected ',' or ']'"),
        ('[{"a": 1}, ]', "record 2: expected a JSON object"),
        ('[{"a": 1}, 5]', "record 2: expected a JSON object"),
        ('[{"a": 1}] rest', "text after the end of the array"),
        ('{"a": 1}\n{"a" 2}\n', "record 2: not JSON"),
        ("hello", "record 1: expected a JSON object"),
        ("[", "record 1: the file is cut off"),
        ('{"a":' + "[" * 100_000, "record 1: nested too deeply"),
    ],
)
def test_what_is_no_json_is_an_error_with_file_and_record(tmp_path, text, message):
    path = tmp_path / "dpr.json.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(FormatError, match=f"dpr.json.gz: .*{message}"):
        list(read_records(path))


def test_a_record_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(json_records, "_CHUNK", 10)
    monkeypatch.setattr(json_records, "_LONGEST_RECORD", 1000)
    stream = io.StringIO('{"a": "' + "x" * 100_000)
    with pytest.raises(FormatError, match="record 1: not JSON"):
        list(read_records(stream))


@pytest.mark.parametrize("content", ["", "\n", "[]\n"])
def test_a_file_without_a_question_is_an_error_and_gives_no_file(tmp_path, content):
    (tmp_path / "empty.json").write_text(content)
    with pytest.raises(FormatError, match=r"empty\.json: there is no question in it$"):
        dpr_to_trec(tmp_path / "empty.json", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
