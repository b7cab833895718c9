"""Names of evaluation measures: one table that maps both spellings of the field to trec_eval's measures.

The first spelling is that of ir_measures (``nDCG@10``, ``RR@10``, ``AP(rel=2)``), the second that of
trec_eval (``ndcg_cut.10``, ``recip_rank``, ``map``). Letter case does not matter.
A new measure is a new row in ``FAMILIES``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qpeft_rerank.errors import InputError

# trec_eval keeps one counter for each grade up to the highest: a stray huge "grade" would fill the memory.
HIGHEST_GRADE = 10_000

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")

# Sums of the same gains in another order differ by less than this; no measure has real differences as small.
EQUAL = 1e-9


class Family(NamedTuple):
    """A measure without its cutoff."""

    name: str
    """ir_measures' name."""
    plain: str | None
    """trec_eval's name when no cutoff is given; None: a cutoff is needed."""
    cut: str | None = None
    """trec_eval's name with a cutoff; None: it has none."""
    aliases: tuple[str, ...] = ()
    own_cut: bool = False
    """True: takes a cutoff that trec_eval 9 does not know (evaluate.py sees to it); written with @ only."""
    graded: bool = False
    """True: uses the grades themselves, so the relevance level has no effect."""
    tail: bool = False
    """True: documents below the last judged one change the value."""
    summary: Literal["mean", "sum", "geometric"] = "mean"
    """How trec_eval makes one figure of all topics."""


FAMILIES = (
    Family("nDCG", "ndcg", "ndcg_cut", graded=True),
    Family("RR", "recip_rank", aliases=("MRR",), own_cut=True),
    Family("R", None, "recall"),
    Family("AP", "map", "map_cut"),
    Family("P", None, "P", aliases=("Precision",)),
    Family("Success", None, "success", aliases=("hit", "hits")),
    Family("Rprec", "Rprec"),
    Family("Bpref", "bpref"),
    Family("infAP", "infAP"),
    Family("IPrec", None, "iprec_at_recall"),
    Family("11pt_avg", "11pt_avg"),
    Family("SetP", "set_P", tail=True),
    Family("SetRelP", "set_relative_P", tail=True),
    Family("SetR", "set_recall"),
    Family("SetF", "set_F", tail=True),
    Family("SetAP", "set_map", tail=True),
    Family("Judged", None, own_cut=True, graded=True),
    Family("gm_map", "gm_map", summary="geometric"),
    Family("gm_bpref", "gm_bpref", summary="geometric"),
    Family("NumQ", "num_q", graded=True, summary="sum"),
    Family("NumRet", "num_ret", graded=True, tail=True, summary="sum"),
    Family("NumRel", "num_rel", summary="sum"),
    Family("NumRelRet", "num_rel_ret", summary="sum"),
)

# trec_eval's own cutoffs, used when its name of a measure with cutoffs is given alone (`-m P`).
_RANKS = ("5", "10", "15", "20", "30", "100", "200", "500", "1000")
_TREC_CUTOFFS = {
    "P": _RANKS,
    "recall": _RANKS,
    "ndcg_cut": _RANKS,
    "map_cut": _RANKS,
    "success": ("1", "5", "10"),
    "iprec_at_recall": tuple(f"{tenths / 10:.2f}" for tenths in range(11)),
}
# What trec_eval prints when no measure is named, and its `-m set`; without the run's tag and `utility`.
_COUNTS = "num_q num_ret num_rel num_rel_ret"
_NICKNAMES = {
    "official": f"{_COUNTS} map gm_map Rprec bpref recip_rank iprec_at_recall P".split(),
    "set": f"{_COUNTS} set_P set_relative_P set_recall set_map set_F".split(),
}

_BY_NAME = {
    name.lower(): family
    for family in FAMILIES
    for name in (family.name, family.plain, family.cut, *family.aliases)
    if name is not None
}
# nDCG@10, AP(rel=2)@100, ndcg_cut.10, ndcg_cut_10, recall.5,10, iprec_at_recall.0.10
_SPELLING = re.compile(r"(\w+?)(?:\(rel=(\d+)\))?(?:([@._])(\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*))?", re.ASCII)


@dataclass(frozen=True)
class Measure:
    """One measure as it was asked for.

    ``spelling`` is the user's and heads the column; ``cutoff`` is a rank, or a recall from 0 to 1 for IPrec,
    or None; ``level`` is the lowest relevant grade if the spelling names one, else None.
    """

    spelling: str
    family: Family
    cutoff: int | float | None = None
    level: int | None = None

    @property
    def depth(self) -> int | None:
        """The last rank that the measure looks at; None: all."""
        return self.cutoff if isinstance(self.cutoff, int) else None

    @property
    def request(self) -> str | None:
        """What to ask pytrec_eval for; None: the measure is not one of its."""
        if self.cutoff is None or self.family.own_cut:
            return self.family.plain
        return f"{self.family.cut}.{f'{self.cutoff:.2f}' if isinstance(self.cutoff, float) else self.cutoff}"

    @property
    def key(self) -> str | None:
        """The name under which pytrec_eval answers ``request``."""
        return self.request and self.request.replace(".", "_", 1)


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Measures by name (or those of ir_measures), in the order asked, each spelling once.

    A name may hold several, separated by white space; trec_eval's lists (``recall.5,10``), its measures with
    its own cutoffs (``P``) and its nicknames ``official`` and ``set`` give several measures.

    Raises: InputError for a name that is not known; it lists what is known.
    """
    if isinstance(names, str):
        names = [names]
    found: dict[str, Measure] = {}
    for name in (word for text in names for word in str(text).split()):
        for measure in _parse(name):
            found.setdefault(measure.spelling, measure)
    if not found:
        raise InputError("no measure is named")
    return list(found.values())


def known_measures() -> str:
    """One line that lists the names of all measures, in both spellings."""
    ours = [_with_cutoff(family) for family in FAMILIES if family.name != family.plain]
    trec = [name for family in FAMILIES for name in (family.plain, family.cut and f"{family.cut}.k") if name]
    return f"{' '.join(ours)}; or in trec_eval's spelling: {' '.join(trec)} {' '.join(_NICKNAMES)}"


def _parse(name: str) -> list[Measure]:
    if name in _NICKNAMES:
        return [measure for member in _NICKNAMES[name] for measure in _parse(member)]
    if name in _TREC_CUTOFFS:
        return [measure for cutoff in _TREC_CUTOFFS[name] for measure in _parse(f"{name}.{cutoff}")]
    match = _SPELLING.fullmatch(name)
    family = match and _BY_NAME.get(match[1].lower())
    if not family:
        several = " (several are put apart by blanks)" if "," in name else ""
        raise InputError(f"unknown measure {name!r}{several}; known are {known_measures()}")
    base, level, separator, cutoffs = match.groups()
    if level is not None:
        if family.graded:
            raise InputError(f"measure {name!r}: {family.name} does not depend on a relevance level")
        if not 1 <= int(level) <= HIGHEST_GRADE:
            raise InputError(f"measure {name!r}: the relevance level must be from 1 to {HIGHEST_GRADE}")
    if cutoffs is None:
        if family.plain is None or (family.cut and base.lower() == family.cut.lower()):
            raise InputError(f"measure {name!r} needs a cutoff, as in {_example(family)}")
        return [Measure(name, family, None, int(level) if level else None)]
    # trec_eval takes `ndcg.10` for something else, and cuts nothing for `recip_rank.10`.
    takes = family.own_cut or family.cut is not None
    if not takes or (separator != "@" and base.lower() != (family.cut or "").lower()):
        problem = f"with a cutoff it is written {_example(family)}" if takes else f"{base} takes no cutoff"
        raise InputError(f"measure {name!r}: {problem}")
    return [
        Measure(
            name.removesuffix(cutoffs) + cutoff,
            family,
            _cutoff(name, family, cutoff),
            int(level) if level else None,
        )
        for cutoff in cutoffs.split(",")
    ]


def _cutoff(name: str, family: Family, text: str) -> int | float:
    if family.name == "IPrec":
        # trec_eval answers under a name with two decimals.
        if not 0 <= float(text) <= 1 or round(float(text), 2) != float(text):
            raise InputError(f"measure {name!r}: the recall must be from 0 to 1, with two decimals at most")
        return float(text)
    if "." in text or not 1 <= int(text) < 2**31:
        raise InputError(f"measure {name!r}: the cutoff must be a rank, 1 or more")
    return int(text)


def _with_cutoff(family: Family) -> str:
    if family.plain is None:
        return f"{family.name}@k"
    return f"{family.name}[@k]" if family.cut or family.own_cut else family.name


def _example(family: Family) -> str:
    cutoff = "0.1" if family.name == "IPrec" else "10"
    return f"{family.name}@{cutoff}" + (f" or {family.cut}.{cutoff}" if family.cut else "")
