"""``qpeft VERB ...``: find the verb, import its module alone, parse its flags, run it.

A verb's module gives ``VERB`` (a `Verb`), or ``VERBS`` (several by name) where the verb has forms of its own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from qpeft_rerank.cli.frame import UsageError, guarded

# Verb -> one line of `qpeft --help`. Not in the verb's own module, so that none needs to be imported for it.
VERBS = {
    "index": "build a Lucene index from a corpus",
    "bm25": "search topics with BM25: the first stage",
    "adapt": "prepare a language model for dense retrieval on plain text (LLaRA)",
    "encode": "turn a corpus into vectors with an encoder (RepLLaMA, sentence-transformers)",
    "dense-index": "build a Faiss index from vectors",
    "dense": "search topics in a dense index: the other first stage",
    "train": "train an adapter from a run and qrels",
    "rerank": "reorder a run with a language model",
    "explain": "show why passages of a run have their scores: query tokens and hints",
    "fuse": "make one run of several, by ranks or weighted scores",
    "documents": "cut long documents to windows, and join a run of windows to one of documents",
    "evaluate": "measure runs against qrels, and compare them",
    "convert": "turn files of other projects into topics, qrels, runs and corpora, and back",
    "demo": "run the whole chain on a small collection, offline",
}
EXAMPLE = """\
a chain, with a collection file that names index, topics and qrels once:
  qpeft bm25 -c squad.toml | qpeft rerank -c squad.toml --adapter adapter | qpeft evaluate -c squad.toml

qpeft VERB --help lists the flags of a verb."""


class Parser(argparse.ArgumentParser):
    """argparse, with no abbreviated flags and with errors of one line."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stdout).write(message)  # argparse's own hides a full disk

    def positionals(self) -> list[argparse.Action]:
        """The arguments without a flag."""
        return [action for action in self._actions if not action.option_strings]

    def known_flags(self) -> list[str]:
        """All flags, for suggestions."""
        return [flag for action in self._actions for flag in action.option_strings]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv[1:]``) and give the exit code; see `frame` for the codes."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    words = [a for a in arguments if not a.startswith("-")]
    prog = f"qpeft {words[0]}" if words and words[0] in VERBS else "qpeft"
    return guarded(lambda: _dispatch(arguments), prog, debug="--debug" in flags, verbose="--verbose" in flags)


def _dispatch(arguments: list[str]) -> None:
    place = next((i for i, a in enumerate(arguments) if not a.startswith("-")), len(arguments))
    front, rest = arguments[:place], arguments[place + 1 :]
    top = _top_parser()
    asked, unknown = top.parse_known_args(front)
    _refuse(unknown, top)
    if asked.version:
        from qpeft_rerank.version import __version__

        print(f"qpeft {__version__}")
        return
    if place == len(arguments):
        raise UsageError(f"name a verb: {', '.join(VERBS)} (see qpeft --help)")
    name = arguments[place]
    if name not in VERBS:
        raise UsageError(f"there is no verb {name!r}{_suggestion(name, VERBS)}; there are {', '.join(VERBS)}")
    module = importlib.import_module(f"qpeft_rerank.cli.{name.replace('-', '_')}")
    prog, verb = f"qpeft {name}", getattr(module, "VERB", None)
    if verb is None:
        form = _form(prog, module, rest)
        rest = rest[1:]
        prog, verb = f"{prog} {form}", module.VERBS[form]
    verb.run(_parse(verb, prog, rest))


def _form(prog: str, module: Any, arguments: list[str]) -> str:
    """Which of the verb's forms is named: the first argument, as later ones may be values of flags."""
    forms = module.VERBS
    form = arguments[0] if arguments else None
    if form in ("-h", "--help"):
        _forms_parser(prog, module).parse_args([form])
    if form is None:
        raise UsageError(f"name a form: {', '.join(forms)} (see {prog} --help)")
    if form.startswith("-"):
        raise UsageError(f"name the form first, before {form}: {' or '.join(f'{prog} {f}' for f in forms)}")
    if form not in forms:
        raise UsageError(f"there is no form {form!r}{_suggestion(form, forms)}; there are {', '.join(forms)}")
    return form


def _parse(verb: Any, prog: str, arguments: list[str]) -> Any:
    from qpeft_rerank.cli.options import add_options, from_namespace

    parser = Parser(prog=prog, description=verb.about, epilog=f"example:\n{verb.example}")
    add_options(parser, verb.options)
    _add_frame_flags(parser)
    words = [f"[{a.metavar}{' ...' if a.nargs == '*' else ''}]" for a in parser.positionals()]
    parser.usage = " ".join([prog, *words, "[flags]"])
    # Before argparse's intermixed mode, which hides positional arguments from the help.
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        parser.exit()
    values, unknown = parser.parse_known_intermixed_args(arguments)
    _refuse(unknown, parser)
    return from_namespace(verb.options, values)


def _refuse(unknown: list[str], parser: Parser) -> None:
    if unknown:
        near = _suggestion(unknown[0].split("=")[0], parser.known_flags())
        parser.error(f"unrecognized argument: {unknown[0]}{near}")


def _suggestion(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _top_parser() -> Parser:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{help}" for name, help in VERBS.items())
    top = Parser(
        prog="qpeft",
        usage="qpeft [--version] [--help] VERB ...",
        epilog=f"verbs:\n{verbs}\n\n{EXAMPLE}",
        description="Rerank search results with a causal language model: query likelihood, Q-PEFT.",
    )
    top.add_argument("--version", action="store_true", help="show the version and exit")
    _add_frame_flags(top)
    return top


def _forms_parser(prog: str, module: Any) -> Parser:
    width = max(map(len, module.VERBS)) + 2
    forms = "\n".join(f"  {name:<{width}}{verb.about.splitlines()[0]}" for name, verb in module.VERBS.items())
    parser = Parser(
        prog=prog, usage=f"{prog} FORM ...", description=module.__doc__, epilog=f"forms:\n{forms}"
    )
    _add_frame_flags(parser)
    return parser


def _add_frame_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose", action="store_true", help="show warnings and log lines of the libraries used"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


if __name__ == "__main__":
    sys.exit(main())
