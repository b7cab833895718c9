"""Show why the first passages of a run have their scores: the log-likelihood of each token of the query, and
the hints that were put into the input.

A passage's log-likelihood is the mean over the tokens of the query. The score is that of the run, which
`qpeft rerank` made of the log-likelihood and the first stage's score; --first-stage shows that, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpeft_rerank.cli.options import Verb, option
from qpeft_rerank.cli.scorer_options import ScorerOptions
from qpeft_rerank.cli.shared_options import InputRunOptions, PassageOptions, TopicsOptions, check_stdin

if TYPE_CHECKING:
    from qpeft_rerank.explaining import ExplainedPassage

SHOWN_CHARACTERS = 90


@dataclass(kw_only=True)
class ExplainOptions(InputRunOptions, ScorerOptions, PassageOptions, TopicsOptions):
    """Flags of `qpeft explain`."""

    depth: int = option(3, "passages of each topic that are shown", least=1)
    qid: str | None = option(None, "these topics only, separated by commas", metavar="QID,...")
    first_stage: str | None = option(
        None, "the run that was reranked: shows rank and score of each passage there", metavar="RUN"
    )
    json: bool = option(False, "one JSON object a line for each passage, instead of text")

    def check(self) -> None:
        """Raise `InputError` for flags that do not go together."""
        self.check_scorer()
        check_stdin(self, topics=self.topics, first_stage=self.first_stage)


def run(options: ExplainOptions) -> None:
    """Explain and print."""
    options.check()
    source = options.run_source()

    from qpeft_rerank.explaining import explain_run
    from qpeft_rerank.trec import read_run

    topics, rankings, passages = options.read_topics(), read_run(source), options.open_passages()
    # Read now, so that a missing file is told before the model is loaded.
    first_stage = None if options.first_stage is None else list(read_run(options.first_stage))
    reranker = options.loader(options.base_options())()
    qids = options.qid.split(",") if options.qid else ()
    explained = explain_run(rankings, topics, passages, reranker, options.depth, qids, first_stage)
    for text in map(as_json, explained) if options.json else as_text(explained):
        sys.stdout.write(text)


def as_json(one: ExplainedPassage) -> str:
    """A line of JSON."""
    fields = {
        "qid": one.qid,
        "query": one.query,
        "rank": one.rank,
        "docid": one.passage.docid,
        "score": one.score,
        "log_likelihood": one.why.score,
        "first_stage_rank": None if one.before is None else one.before[0],
        "first_stage_score": None if one.before is None else one.before[1],
        "tokens": one.why.tokens,
        "hints": one.why.hints,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def as_text(explained: Iterable[ExplainedPassage]) -> Iterator[str]:
    """For reading: a topic's query once, then its passages."""
    topic = None
    for one in explained:
        if one.qid != topic:
            yield f"{'' if topic is None else chr(10)}{one.qid}  {one.query}\n"
            topic = one.qid
        words = " ".join(f"{token} {value:.1f}" for token, value in one.why.tokens)
        text = " ".join(f"{one.passage.title} {one.passage.text}".split())
        shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
        stood = "" if one.before is None else f"  first stage {one.before[0]}., {one.before[1]:.4f}"
        yield (
            f"{one.rank:4}  {one.passage.docid}  score {one.score:.4f}  log-likelihood {one.why.score:.4f}"
            f"{stood}\n"
            f"      {shown}\n      query   {words}\n"
        )
        if one.why.hints:
            yield f"      hints   {' '.join(one.why.hints)}\n"


VERB = Verb(
    __doc__,
    "  qpeft explain run.qpeft-a.txt -c squad.toml --adapter adapter --qid 56bea9923aeaaa14008c91b9\n"
    "  qpeft rerank run.bm25.txt -c squad.toml --adapter adapter | \\\n"
    "      qpeft explain -c squad.toml --adapter adapter --depth 1 --json > why.jsonl",
    ExplainOptions,
    run,
)
