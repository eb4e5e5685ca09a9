"""How long `kubectl rltrain validate` takes: one job in one process, and the whole command from start to end.

    python benchmarks/cli/validate.py [--file examples/quickstart.yaml] [--runs 200] [--starts 15] [--json FILE]

In process: read the file, parse it, validate the job; the first time is shown apart, because it warms caches. Start to
end: `python -m rltrain_operator.cli validate FILE` beside `python -c pass`, taken in turn, so that a busy machine slows
both alike. Then the ten modules that take longest to import by themselves. The goals are 20 ms in process and 600 ms
from start to end; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.reading import read_documents
from rltrain_api.validate import validate

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
MODULES_SHOWN = 10
# `python -X importtime`: "import time:   self [us] | cumulative | module", the module's name indented by depth
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
# The children import what this process can, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def validate_file(path: str) -> int:
    """Number of errors in the one job of a file."""
    (document,) = read_documents(path)
    job = parse_job(document.data)
    return len(validate(job)) if isinstance(job, RLTrainingJob) else len(job)


def milliseconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def command(*words: str) -> Callable[[], object]:
    """A start of this Python with these words, until it has ended."""

    def start() -> None:
        subprocess.run([sys.executable, *words], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)

    return start


def slowest_imports(*words: str) -> list[tuple[str, float]]:
    """(module, milliseconds that it takes without what it imports) of one start, longest first."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    found = [(match[2], int(match[1]) / 1000) for match in IMPORT_LINE.finditer(done.stderr)]
    return sorted(found, key=lambda entry: -entry[1])


def measure(path: str, runs: int, starts: int) -> dict[str, object]:
    """All numbers, in milliseconds."""
    first = milliseconds(lambda: validate_file(path))
    in_process = [milliseconds(lambda: validate_file(path)) for _ in range(runs)]
    words = ("-m", "rltrain_operator.cli", "validate", path)
    whole, bare = [], []
    for _ in range(starts):
        whole.append(milliseconds(command(*words)))
        bare.append(milliseconds(command("-c", "pass")))
    imports = slowest_imports(*words)
    return {
        "in process": {"first": first, "median": median(in_process), "p99": quantiles(in_process, n=100)[98]},
        "start to end": {"median": median(whole), "slowest": max(whole), "python -c pass": median(bare)},
        "modules": len(imports),
        "imports": dict(imports[:MODULES_SHOWN]),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", default=str(EXAMPLE), help="a file with one valid job")
    parser.add_argument("--runs", type=int, default=200, help="validations in this process")
    parser.add_argument("--starts", type=int, default=15, help="starts of the command")
    parser.add_argument("--json", type=Path, help="write the numbers as JSON, too")
    arguments = parser.parse_args()
    if arguments.runs < 2 or arguments.starts < 1:
        parser.error("--runs must be at least 2 and --starts at least 1")
    result = measure(arguments.file, arguments.runs, arguments.starts)
    for title, numbers in result.items():
        if isinstance(numbers, dict):
            print(title)
            for name, value in numbers.items():
                print(f"  {name:<40} {value:9.2f} ms")
        else:
            print(f"{title:<42} {numbers:6}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
