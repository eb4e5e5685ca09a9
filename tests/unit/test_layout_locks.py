"""The locks hold every dependency with its hashes, and no committed file ties the project to one machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = {"rltrain-api", "rltrain-operator", "rltrain-trainer"}
APART = {"torch"}  # requirements/torch.txt, so that a CPU wheel at hand stands in for the index's build


def normalized(requirement: str) -> str:
    """The name that a requirement asks for, as indexes write it: `ray[default]==2.60.0` is `ray`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def locked(text: str) -> dict[str, set[str]]:
    """Versions by name in a requirements file with hashes."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE):
        found.setdefault(normalized(name), set()).add(version)
    return found


def without_hash(text: str) -> list[str]:
    """Entries of a requirements file that pip would install without a hash."""
    entries = text.replace("\\\n", " ").splitlines()
    return [entry for entry in entries if entry.strip() and not entry.startswith("#") and "--hash=sha256:" not in entry]


def pyproject(member: str) -> dict:
    return tomllib.loads((REPOSITORY / member / "pyproject.toml").read_text())


def requirements(*members: str, extras: bool) -> list[str]:
    found = []
    for member in members:
        project = pyproject(member)["project"]
        found += project["dependencies"]
        if extras:
            found += [item for group in project.get("optional-dependencies", {}).values() for item in group]
    return found


LOCKS = {
    "operator.txt": lambda: requirements("crds", "operator", extras=False),
    "trainer.txt": lambda: requirements("crds", "trainer", extras=True),
    "dev.txt": lambda: (
        requirements("crds", "operator", "trainer", extras=True) + pyproject(".")["dependency-groups"]["dev"]
    ),
    "build.txt": lambda: pyproject(".")["dependency-groups"]["build"],
}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_every_dependency_as_pinned(lock: str) -> None:
    held = locked((REPOSITORY / "requirements" / lock).read_text())
    for requirement in LOCKS[lock]():
        name = normalized(requirement)
        if name in OWN | APART:
            continue
        assert name in held, f"{requirement} is not in requirements/{lock}: run `make lock`"
        pin = re.search(r"==([^;,\s]+)", requirement)
        if pin:
            assert held[name] == {pin[1]}, f"requirements/{lock} is older than {requirement}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_a_hash_for_every_entry(lock: str) -> None:
    assert without_hash((REPOSITORY / "requirements" / lock).read_text()) == []


def test_torch_is_pinned_once() -> None:
    pins = {item for item in requirements("trainer", extras=False) if normalized(item) == "torch"}
    assert pins == {(REPOSITORY / "requirements" / "torch.txt").read_text().strip()}
    dockerfile = (REPOSITORY / "images" / "trainer.Dockerfile").read_text()
    assert f"ARG TORCH_REQUIREMENT={next(iter(pins))}\n" in dockerfile


def test_operator_lock_has_no_kubernetes_client() -> None:
    held = locked((REPOSITORY / "requirements" / "operator.txt").read_text())
    assert not {"kubernetes", "ray", "torch", "transformers"} & held.keys()


def test_an_entry_without_hash_is_found() -> None:
    text = "a==1 \\\n    --hash=sha256:00\nb==2\nc==3 ; python_version < '3.12' \\\n    --hash=sha256:11\n"
    assert without_hash(text) == ["b==2"]
    assert locked(text) == {"a": {"1"}, "b": {"2"}, "c": {"3"}}


# Written in pieces, so that this file does not find itself.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
    )
]
# The homes of users inside images are nobody's machine: ours, and that of the default of SkyRL's text2sql.db_path.
MACHINE_PATH = re.compile(r"(?<![\w.{}$/-])/(?:work|root|home/(?!rltrain\b|ray/default/)[a-z]\w*)/")


def committed_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def ties(text: str) -> list[str]:
    """What in `text` belongs to one machine or one registry."""
    return [host for host in REGISTRY_HOSTS if host in text] + MACHINE_PATH.findall(text)


def test_no_committed_file_names_a_registry_or_a_machine() -> None:
    found = {}
    for path in committed_files():
        if path.suffix in {".png", ".parquet"}:
            continue
        if tied := ties(path.read_text(errors="replace")):
            found[str(path.relative_to(REPOSITORY))] = tied
    assert found == {}


TIES = {
    "a registry": ("see https://" + "pypi" + ".org/simple", True),
    "a home": ("cache in /ho" + "me/somebody/.cache", True),
    "root's home": ("X=/ro" + "ot/.cache", True),
    "the image's own user": ("HOME=/home/rltrain/", False),
    "a path below": ("nodes/root/home/work/x", False),
    "an API path": ("https://host/apis/apps/v1", False),
}


@pytest.mark.parametrize(("text", "tied"), TIES.values(), ids=TIES.keys())
def test_ties_are_told_from_names(text: str, tied: bool) -> None:
    assert bool(ties(text)) is tied
