"""What each target of the Makefile does, in the environment that bootstrap.py has prepared.

    python tests/cluster/tasks.py TARGET [ARGUMENT ...]

Arguments go to the command that the target ends with: pytest for tests, the cluster's own command line for clusters.
This script must not know how the environment was made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rltrain_cluster import find as find_cluster
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.settings import cache_directory

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm" / "rltrain-operator"
PYTHON = sys.executable

TYPED = ["crds/src", "operator/src", "trainer/src", "tests/cluster/src", "tests/cluster/bootstrap.py", __file__]
TIERS = {
    "unit": "make test",
    "controlplane": "make test-integration",
    "full": "make test-e2e",
}
NO_TEST = 5  # pytest's own exit status for it
TEST_CLUSTER = "test"  # not the one that somebody works with
LIMITS = {"check": 900.0, "cluster": 2400.0, "unit": 1500.0, "controlplane": 2400.0, "full": 3600.0}  # seconds


def run(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> int:
    """Run a command from the repository's root with its output shown; its exit status, 124 past `limit` seconds."""
    sys.stdout.flush()
    try:
        return subprocess.run(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, timeout=limit, env=environment, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"no end after {limit:g} s: {' '.join(command)}", file=sys.stderr)
        return 124


# --- checks and tests -----------------------------------------------------------------------------------------------


def check_commands(helm: str) -> dict[str, list[str]]:
    """Everything that judges the sources without running them. Generated files are compared by the unit tests."""
    mypy = [PYTHON, "-m", "mypy", "--cache-dir", str(cache_directory() / "mypy")]
    return {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "mypy --strict": [*mypy, *TYPED],
        "helm lint": [helm, "lint", "--strict", "--quiet", str(CHART)],
    }


def check(_: Sequence[str] = ()) -> int:
    """Run all checks, also after one has failed, and say of each how it went."""
    failed = []
    for name, command in check_commands(ensure_binaries(print).path("helm")).items():
        begin = time.monotonic()
        status = run(command, LIMITS["check"])
        print(f"check {name}: {'ok' if status == 0 else 'FAILED'} ({time.monotonic() - begin:.0f} s)")
        failed += [name] if status else []
    if failed:
        print(f"make check: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def tier_lines(tier: str, status: int) -> list[str]:
    """One line per tier, so that nobody takes a tier for tested that was not."""
    how = "ran, passed" if status == 0 else f"ran, FAILED (pytest's exit status {status})"
    return [
        f"tier {name}: {how if name == tier else f'not part of this target; {target} runs it'}"
        for name, target in TIERS.items()
    ]


def run_tests(
    tier: str, paths: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run one tier by pytest, whose closing line comes last but for the tiers'.

    The first of `paths` is the tier's own: no test there is a failure, not a tier that passed.
    """
    empty = [path for path in paths if not any((REPOSITORY / path).rglob("test_*.py"))]
    if empty:
        print(f"no test in {' '.join(empty)}", file=sys.stderr)
    # The tier's own tests come last: they install the operator, which would act on the objects of the others.
    present = [path for path in reversed(paths) if path not in empty]
    status = run([PYTHON, "-m", "pytest", *present, *arguments], LIMITS[tier], environment) if present else NO_TEST
    if paths[0] in empty:
        status = NO_TEST
    print("\n".join(tier_lines(tier, status)))
    return status


def test(arguments: Sequence[str]) -> int:
    # The checks build helm, which the tests of the chart use.
    checked = check()
    tested = run_tests("unit", ["tests/unit", "tests/property"], arguments)
    return checked or tested


def run_tests_on_cluster(tier: str, up: Sequence[str], paths: Sequence[str], arguments: Sequence[str]) -> int:
    """Run one tier on a cluster made for it, which its tests find by KUBECONFIG and KUBECTL, and take that down."""
    cluster = [PYTHON, "-m", "rltrain_cluster"]
    name = f"--name={TEST_CLUSTER}"
    try:
        status = run([*cluster, "up", name, *up], LIMITS["cluster"])
        if status:
            print(f"tier {tier}: NOT RUN: its cluster did not come up", file=sys.stderr)
            return status
        found = {
            "KUBECONFIG": str(find_cluster(TEST_CLUSTER).kubeconfig),
            "KUBECTL": ensure_binaries(print).path("kubectl"),
        }
        status = run_tests(tier, paths, arguments, {**os.environ, **found})
    finally:
        down = run([*cluster, "down", name], LIMITS["cluster"])
    return status or down


def test_integration(arguments: Sequence[str]) -> int:
    choice = ["-m", "not cluster", *arguments]  # tests of real nodes belong to the other tier
    return run_tests_on_cluster("controlplane", ["--backend=controlplane"], ["tests/integration"], choice)


def test_e2e(arguments: Sequence[str]) -> int:
    # What an API server alone can judge is judged here too: this tier has everything that the other one has.
    return run_tests_on_cluster("full", [], ["tests/e2e", "tests/integration"], arguments)


# --- generated files ------------------------------------------------------------------------------------------------


def manifests(_: Sequence[str]) -> int:
    """Generate the CRD and the references in docs/ from the API, and copy the CRD into the chart."""
    modules = ("rltrain_api.crdgen", "rltrain_api.reference", "rltrain_api.env.document")
    generators = [*(["-m", name] for name in modules), ["tests/support/config_support.py"]]
    status = next((failed for generator in generators if (failed := run([PYTHON, *generator], 120)) != 0), 0)
    if status == 0:
        copies = CHART / "files" / "crds"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir(parents=True)
        for manifest in sorted((REPOSITORY / "crds" / "manifests").glob("*.yaml")):
            print(f"{shutil.copyfile(manifest, copies / manifest.name).relative_to(REPOSITORY)}")
    return status


def lock_commands(uv: Sequence[str]) -> list[list[str]]:
    """uv resolves the workspace; its exports are what is committed, torch apart (requirements/torch.txt)."""
    export = [*uv, "export", "-q", "--frozen", "--no-header", "--no-annotate", "--no-emit-workspace"]
    without_torch = ["--prune", "torch"]
    return [
        [*uv, "lock"],
        [*export, *without_torch, "--all-extras", "-o", "requirements/dev.txt"],
        [*export, *without_torch, "--no-dev", "--package", "rltrain-trainer", "-o", "requirements/trainer.txt"],
        [*export, *without_torch, "--no-dev", "--package", "rltrain-operator", "-o", "requirements/operator.txt"],
        [*export, "--only-group", "build", "-o", "requirements/build.txt"],
    ]


def lock(_: Sequence[str]) -> int:
    for command in lock_commands([PYTHON, "-m", "uv"]):
        if status := run(command, 900):
            return status
    return 0


# --- clusters, images, the demonstration ----------------------------------------------------------------------------


def module(*command: str) -> Callable[[Sequence[str]], int]:
    """A target that is a command of one of our packages; it takes this process's place, terminal and signals too."""

    def replace_process(arguments: Sequence[str]) -> int:
        sys.stdout.flush()
        os.execv(PYTHON, [PYTHON, "-m", *command, *arguments])  # noqa: S606

    return replace_process


TARGETS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": module("rltrain_cluster.demo", "up"),
    "demo-down": module("rltrain_cluster.demo", "down"),
    "test": test,
    "check": check,
    "test-integration": test_integration,
    "test-e2e": test_e2e,
    "manifests": manifests,
    "lock": lock,
    "cluster": module("rltrain_cluster", "up"),
    "cluster-down": module("rltrain_cluster", "down"),
    "images": module("rltrain_cluster.images"),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in TARGETS:
        print(f"usage: tasks.py {{{','.join(TARGETS)}}} [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        return TARGETS[arguments[0]](arguments[1:])
    except ClusterError as error:
        print(f"make {arguments[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
