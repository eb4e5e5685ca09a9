"""Entry point of `kubectl rltrain`: finds the verb, loads only that verb's module, turns errors into exit codes.

A new verb is one line in `VERBS` and one module. Must not know what a verb does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CommandError
from rltrain_operator.cli.screen import Screen

PROGRAM = "kubectl rltrain"
EPILOG = f"`{PROGRAM} VERB --help` explains one verb. Jobs are ordinary objects: `kubectl get rltj` lists them."

# verb -> (module with configure(parser) and run(arguments, screen), one line of help)
VERBS = {
    "validate": ("rltrain_operator.cli.validate", "say what is wrong with jobs in files, all of it at once"),
    "plan": ("rltrain_operator.cli.plan", "show what a job needs and which objects would be made for it"),
    "convert": ("rltrain_operator.cli.convert", "make a job of a SkyRL launch script, overrides or configuration"),
    "render": ("rltrain_operator.cli.render", "write a job as a SkyRL command, sbatch script, Modal app or RayJob"),
    "env": ("rltrain_operator.cli.env", "show the environment of a job's pods and where each value comes from"),
    "watch": ("rltrain_operator.cli.watch", "follow a job to its end and say how it went"),
    "curve": ("rltrain_operator.cli.curve", "draw a job's reward and evaluation by step"),
}


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for the command line `words`.

    A verb's own module is imported only when its name is among the words: the others cost nothing.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Prepare and follow reinforcement learning jobs (RLTrainingJob) on Kubernetes.",
        epilog=EPILOG,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    for name, (module, summary) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in words:
            importlib.import_module(module).configure(verb)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code.

    Raises:
        SystemExit: from argparse, with 0 after `--help` and 2 for a command line that cannot be read.
    """
    words = sys.argv[1:] if words is None else words
    arguments = build_parser(words).parse_args(words)
    screen = Screen(sys.stdout)
    try:
        code: int = importlib.import_module(VERBS[arguments.verb][0]).run(arguments, screen)
        sys.stdout.flush()
    except CommandError as error:
        screen.close()
        print(f"{PROGRAM} {arguments.verb}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        screen.close()
        print(f"{PROGRAM} {arguments.verb}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left. The interpreter's own flush at exit must find somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
