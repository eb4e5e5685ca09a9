"""The workspace's shape: no package shadows the standard library, and imports run one way only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
API = "crds/src/rltrain_api"
OPERATOR = "operator/src/rltrain_operator"
TRAINER = "trainer/src/rltrain_trainer"


@dataclass(frozen=True)
class ImportRule:
    """No module of `room`, but for those below `but_for`, imports a package of `forbidden`."""

    room: str
    forbidden: frozenset[str]
    but_for: tuple[str, ...] = ()


RULES = {
    "the API knows no runtime": ImportRule(
        API, frozenset({"torch", "ray", "kubernetes", "kopf", "aiohttp", "rltrain_operator", "rltrain_trainer"})
    ),
    "the operator does not know the trainer": ImportRule(
        OPERATOR, frozenset({"rltrain_trainer", "torch", "ray", "transformers"})
    ),
    "the trainer does not know the operator": ImportRule(
        TRAINER, frozenset({"rltrain_operator", "kopf", "kubernetes"})
    ),
    "Ray lives in the driver and the launch": ImportRule(
        TRAINER, frozenset({"ray"}), but_for=(f"{TRAINER}/driver", f"{TRAINER}/launch")
    ),
    "the Kubernetes client lives in the command line": ImportRule(
        OPERATOR, frozenset({"kubernetes"}), but_for=(f"{OPERATOR}/cli",)
    ),
    "planning and deciding are pure": ImportRule(f"{OPERATOR}/plan", frozenset({"aiohttp", "kopf", "asyncio"})),
}


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything that `source` imports, at any depth of its functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def violations(root: Path, rule: ImportRule) -> Iterator[str]:
    for path in sorted((root / rule.room).rglob("*.py")):
        name = path.relative_to(root)
        if not any(name.is_relative_to(room) for room in rule.but_for):
            for package in sorted(imported_packages(path.read_text()) & rule.forbidden):
                yield f"{name} imports {package}"


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_imports_run_one_way(rule: ImportRule) -> None:
    assert list((REPOSITORY / rule.room).rglob("*.py")), f"{rule.room} has no modules: the rule judges nothing"
    assert list(violations(REPOSITORY, rule)) == []


def test_a_forbidden_import_is_found_wherever_it_hides(tmp_path: Path) -> None:
    (tmp_path / "room" / "free").mkdir(parents=True)
    (tmp_path / "room" / "a.py").write_text("def f():\n    from ray.util import state\n")
    (tmp_path / "room" / "b.py").write_text("import os, ray\nfrom . import ray as own\n")
    (tmp_path / "room" / "free" / "c.py").write_text("import ray\n")
    rule = ImportRule("room", frozenset({"ray"}), but_for=("room/free",))
    assert list(violations(tmp_path, rule)) == ["room/a.py imports ray", "room/b.py imports ray"]


def test_operator_directory_is_no_package() -> None:
    assert not (REPOSITORY / "operator" / "__init__.py").exists()
    code = "import operator, sys; sys.exit(0 if hasattr(operator, 'itemgetter') else operator.__path__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tests_are_no_packages() -> None:
    assert [path for path in (REPOSITORY / "tests").rglob("__init__.py") if "src" not in path.parts] == []


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
