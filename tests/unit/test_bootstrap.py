"""The bootstrap: one line for what is missing, one environment per set of locks, commands that work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import bootstrap
import pytest
import tasks
from bootstrap import MissingError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_target_is_known_everywhere() -> None:
    """The Makefile, the bootstrap and the tasks name the same targets."""
    makefile = (REPOSITORY / "Makefile").read_text()
    match = re.search(r"^(help .*):$", makefile, flags=re.MULTILINE)
    assert match
    assert match[1].split() == re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split()
    assert set(match[1].split()) == {"help", *bootstrap.TARGETS} == {"help", *tasks.TARGETS}


def test_bootstrap_runs_on_the_standard_library_alone() -> None:
    command = [sys.executable, "-I", "-S", str(REPOSITORY / "tests" / "cluster" / "bootstrap.py"), "help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(bootstrap.TARGETS)


TOOLS = ({"runc": "runc", "ip": "iproute2"}, {"buildah": "buildah"}, {"tc": "iproute2"})
PRESENT = {
    "nothing is here": (set(), ["buildah", "iproute2", "runc"]),
    "some are here": ({"ip", "runc"}, ["buildah", "iproute2"]),
    "all are here": ({"ip", "runc", "buildah", "tc"}, []),
}


@pytest.mark.parametrize(("present", "packages"), PRESENT.values(), ids=PRESENT.keys())
def test_missing_packages(present: set[str], packages: list[str]) -> None:
    assert bootstrap.missing_packages(TOOLS, present.__contains__) == packages


REFUSALS = {
    "not root": ("demo", {"root": False, "apt": "apt-get"}, "make demo: needs root"),
    "not root, images": ("images", {"root": False, "apt": None}, "make images: needs root"),
    "no apt": ("cluster", {"root": True, "apt": None}, "apt-get is not here"),
}


@pytest.mark.parametrize(("target", "machine", "said"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal_is_one_line_with_what_still_works(
    monkeypatch: pytest.MonkeyPatch, target: str, machine: dict, said: str
) -> None:
    monkeypatch.setattr(bootstrap, "is_installed", lambda _: False)
    monkeypatch.delenv("CLUSTER", raising=False)
    with pytest.raises(MissingError) as refusal:
        bootstrap.ensure_packages(target, **machine)
    assert said in str(refusal.value)
    assert bootstrap.TARGETS[target].without in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tests_need_neither_root_nor_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "is_installed", lambda _: False)
    bootstrap.ensure_packages("test", root=False, apt=None)


def test_another_back_end_needs_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "is_installed", lambda _: False)
    monkeypatch.setenv("CLUSTER", "existing")
    bootstrap.ensure_packages("demo", root=False, apt=None)


BASE_KEY = ([b"a==1", b"torch==2"], "", "3.11.7")
OTHER_KEYS = {
    "another lock": ([b"a==2", b"torch==2"], "", "3.11.7"),
    "the same bytes, cut elsewhere": ([b"a==1t", b"orch==2"], "", "3.11.7"),
    "a wheel at hand": ([b"a==1", b"torch==2"], "torch.whl", "3.11.7"),
    "another Python": ([b"a==1", b"torch==2"], "", "3.12.1"),
}


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_environment_key(key: tuple[list[bytes], str, str]) -> None:
    assert bootstrap.environment_key(*key) != bootstrap.environment_key(*BASE_KEY)
    assert bootstrap.environment_key(*BASE_KEY) == bootstrap.environment_key(*BASE_KEY)


def make_checkout(root: Path) -> Path:
    (root / "crds" / "src" / "greeting").mkdir(parents=True)
    (root / "crds" / "src" / "greeting" / "__init__.py").write_text("def main():\n    print('hello')\n    return 3\n")
    (root / "crds" / "pyproject.toml").write_text('[project]\nname = "x"\n[project.scripts]\ngreet = "greeting:main"\n')
    return root


def make_dependencies(root: Path) -> Path:
    packages = root / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    (packages / "borrowed.py").write_text("value = 7\n")
    return root


def test_checkout_gets_commands_and_dependencies(tmp_path: Path) -> None:
    python = bootstrap.ensure_checkout(make_dependencies(tmp_path / "cache"), make_checkout(tmp_path / "checkout"))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = subprocess.run([python.parent / "greet"], capture_output=True, text=True, env=plain, check=False)
    assert (command.stdout, command.returncode) == ("hello\n", 3)
    code = "import borrowed, greeting, sys; print(borrowed.value, sys.prefix)"
    imported = subprocess.run([python, "-c", code], capture_output=True, text=True, env=plain, check=True)
    assert imported.stdout.split() == ["7", str(tmp_path / "checkout" / ".venv")]


def test_checkout_is_made_again_only_when_something_changed(tmp_path: Path) -> None:
    dependencies, checkout = make_dependencies(tmp_path / "cache"), make_checkout(tmp_path / "checkout")
    bootstrap.ensure_checkout(dependencies, checkout)
    witness = checkout / ".venv" / "witness"
    witness.touch()
    bootstrap.ensure_checkout(dependencies, checkout)
    assert witness.exists()
    bootstrap.ensure_checkout(make_dependencies(tmp_path / "other"), checkout)
    assert not witness.exists()


TIERS = {
    "all passed": ("unit", 0, "tier unit: ran, passed"),
    "a test failed": ("full", 1, "tier full: ran, FAILED (pytest's exit status 1)"),
    "no test": ("controlplane", 5, "tier controlplane: ran, FAILED (pytest's exit status 5)"),
}


@pytest.mark.parametrize(("tier", "status", "line"), TIERS.values(), ids=TIERS.keys())
def test_each_tier_is_named(tier: str, status: int, line: str) -> None:
    lines = tasks.tier_lines(tier, status)
    assert line in lines
    assert len(lines) == len(tasks.TIERS)
    assert sum("not part of this target" in other for other in lines) == len(lines) - 1


@pytest.mark.parametrize("status", [0, 3])
def test_ci_runs_both_targets_propagates_failure_and_cleans_up(tmp_path: Path, status: int) -> None:
    """`.ci/run` with a stand-in for make that records its targets and fails at the first of them."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/called\n[ "$1" = test ] && exit {status}\nexit 0\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": "true"}
    command = ["bash", str(REPOSITORY / ".ci" / "run")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True, check=False)
    assert done.returncode == status
    assert (tmp_path / "called").read_text().split() == ["test", "test-e2e", "cluster-down", "cluster-down"]
