"""The command of the initializer: `python -m rltrain_trainer.quickstart --output DIR [--seed N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers.utils import logging

from rltrain_trainer.quickstart.recipe import Recipe, prepare


def main() -> int:
    """Make the quickstart's files; the exit status is 0 when they are there, 1 when they could not be made."""
    parser = argparse.ArgumentParser(
        prog="python -m rltrain_trainer.quickstart",
        description="Make the quickstart's word problems, tokenizer and tiny warmed-up model; nothing is downloaded.",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the datasets and the model")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal problems (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one core is what an initializer has, and sums come out the same wherever it runs
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without types
    try:
        prepare(arguments.output, Recipe(seed=arguments.seed), lambda line: print(line, flush=True))
    except (ValueError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
