"""Run the whole chain offline on the small collection and the small language model in the package.

Shows what happens: a table of BM25, hard prompt, Q-PEFT-R and Q-PEFT-A, the files that were written, one
query with its passages before and after.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from qpeft_rerank.cli.options import Verb, option


@dataclass(kw_only=True)
class DemoOptions:
    """Flags of `qpeft demo`."""

    output: str = option("qpeft-demo", "folder for index, runs, adapters and tables", metavar="DIR")


def run(options: DemoOptions) -> None:
    """Run the chain and print its story piece by piece."""
    from qpeft_rerank.cli.progress import progress_bar
    from qpeft_rerank.cli.train import log_progress
    from qpeft_rerank.demo.chain import run_demo

    with progress_bar("train", " steps") as bar:
        for text in run_demo(options.output, log_progress(bar)):
            sys.stdout.write(text)
            sys.stdout.flush()


VERB = Verb(__doc__, "  qpeft demo --output qpeft-demo", DemoOptions, run)
