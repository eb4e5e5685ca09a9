"""Images: what decides their content, and that a build takes this machine's settings without keeping them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rltrain_cluster.images import (
    MOUNT,
    RECIPES,
    content_key,
    find_torch_wheel,
    image_name,
    parse_pip_settings,
    pip_configuration,
    stage_context,
)

REPOSITORY = Path(__file__).resolve().parents[2]
INPUTS = ["lock.txt", "package"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    root = tmp_path / "sources"
    (root / "package" / "src").mkdir(parents=True)
    (root / "lock.txt").write_text("a==1\n")
    (root / "package" / "src" / "code.py").write_text("x = 1\n")
    (root / "elsewhere.py").write_text("")
    return root


def rename_file(root: Path) -> None:
    (root / "package" / "src" / "code.py").rename(root / "package" / "src" / "other.py")


def add_byte_code(root: Path) -> None:
    (root / "package" / "src" / "__pycache__").mkdir()
    (root / "package" / "src" / "__pycache__" / "code.pyc").write_bytes(b"\0")


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "a source": (lambda root: (root / "package" / "src" / "code.py").write_text("x = 2\n"), True),
    "a file's name": (rename_file, True),
    "a lock": (lambda root: (root / "lock.txt").write_text("a==2\n"), True),
    "a new file": (lambda root: (root / "package" / "new.py").write_text(""), True),
    "byte code": (add_byte_code, False),
    "a file of others": (lambda root: (root / "elsewhere.py").write_text("y = 1\n"), False),
    "times alone": (lambda root: (root / "lock.txt").touch(), False),
}


@pytest.mark.parametrize(("change", "matters"), CHANGES.values(), ids=CHANGES.keys())
def test_key_follows_content(sources: Path, change: Callable[[Path], object], matters: bool) -> None:
    before = content_key(sources, INPUTS, ["base"])
    change(sources)
    assert (content_key(sources, INPUTS, ["base"]) != before) is matters


def test_key_follows_settings(sources: Path) -> None:
    assert content_key(sources, INPUTS, ["base:1"]) != content_key(sources, INPUTS, ["base:2"])


def test_context_holds_the_inputs_alone_and_no_times(sources: Path, tmp_path: Path) -> None:
    add_byte_code(sources)
    context = tmp_path / "context"
    stage_context(sources, INPUTS, context)
    files = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert files == {"lock.txt", "package/src/code.py"}
    assert {path.stat().st_mtime for path in [context, *context.rglob("*")]} == {0}


@pytest.mark.parametrize("image", RECIPES)
def test_dockerfile_copies_only_what_the_key_covers(image: str) -> None:
    """A file that a Dockerfile copied without being an input would not be there, or would change unseen."""
    recipe = RECIPES[image]
    text = (REPOSITORY / recipe.dockerfile).read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == set(recipe.inputs)
    assert all((REPOSITORY / name).exists() for name in recipe.inputs)


@pytest.mark.parametrize("image", RECIPES)
def test_dockerfile_ends_as_a_user_without_rights(image: str) -> None:
    text = (REPOSITORY / RECIPES[image].dockerfile).read_text()
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE) == ["1000:1000"]
    assert "--require-hashes" in text
    assert "ARG BASE_IMAGE=python:3.12-slim\n" in text


def test_names_carry_a_tag_that_is_not_pulled() -> None:
    assert image_name("trainer") == "rltrain.local/trainer:dev"


WHEELS = {
    "fits": ("torch-{version}+cpu-cp311-cp311-manylinux_2_28_{machine}.whl", True),
    "another Python": ("torch-{version}+cpu-cp312-cp312-manylinux_2_28_{machine}.whl", False),
    "another machine": ("torch-{version}+cpu-cp311-cp311-manylinux_2_28_sparc64.whl", False),
    "another version": ("torch-0.0.1+cpu-cp311-cp311-manylinux_2_28_{machine}.whl", False),
    "a CUDA build": ("torch-{version}-cp311-cp311-manylinux_2_28_{machine}.whl", False),
}


@pytest.mark.parametrize(("name", "fits"), WHEELS.values(), ids=WHEELS.keys())
def test_wheel_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool) -> None:
    version = (REPOSITORY / "requirements" / "torch.txt").read_text().strip().partition("==")[2]
    monkeypatch.setattr("os.uname", lambda: type("uname", (), {"machine": "x86_64"}))
    wheel = tmp_path / name.format(version=version, machine="x86_64")
    wheel.touch()
    assert find_torch_wheel([tmp_path / "missing", tmp_path], "cp311") == (wheel if fits else None)


SETTINGS = {
    "nothing": ("", {}),
    "a file": ("global.index-url='https://mirror.example/simple'\n", {"index-url": "https://mirror.example/simple"}),
    "the environment wins": (":env:.timeout='9'\nglobal.timeout='5'\n", {"timeout": "9"}),
    "the command's section wins over the global one": (
        "install.no-index='true'\nglobal.no-index='false'\n",
        {"no-index": "true"},
    ),
    "other commands do not count": ("download.no-index='true'\n", {}),
    "several values": ("global.find-links='\\n/a\\n/b'\n", {"find-links": "\n/a\n/b"}),
}


@pytest.mark.parametrize(("listed", "settings"), SETTINGS.values(), ids=SETTINGS.keys())
def test_pip_settings(listed: str, settings: dict[str, str]) -> None:
    assert parse_pip_settings(listed) == settings


def test_pip_configuration_for_inside_a_build(tmp_path: Path) -> None:
    settings = {
        "cert": "/etc/outside.crt",
        "find-links": f"{tmp_path} /nowhere https://mirror.example/wheels",
        "extra-index-url": "https://a.example\nhttps://b.example",
    }
    text, folders = pip_configuration(settings, has_certificates=True)
    assert folders == [tmp_path]
    assert text.splitlines() == [
        "[global]",
        f"cert = {MOUNT}/certificates.crt",
        "extra-index-url = https://a.example https://b.example",
        f"find-links = https://mirror.example/wheels {MOUNT}/links-0",
    ]
