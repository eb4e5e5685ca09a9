"""What the cluster's programs are built from decides where they are cached."""

from __future__ import annotations

from pathlib import Path

import pytest

from rltrain_cluster import binaries, settings
from rltrain_cluster.binaries import (
    KUEUE_PROGRAMS,
    MODULES,
    PROGRAMS,
    Program,
    build_command,
    cache_key,
    parse_go_version,
)

ONE = (Program("one", "one", "./cmd"), Program("other", "one", "./other"))


def make_modules(root: Path) -> Path:
    (root / "one" / "cmd").mkdir(parents=True)
    (root / "one" / "go.mod").write_text("module one\n")
    (root / "one" / "go.sum").write_text("sum\n")
    (root / "one" / "cmd" / "main.go").write_text("package main\n")
    return root


def test_same_sources_same_key(tmp_path: Path) -> None:
    assert cache_key(make_modules(tmp_path / "a"), ONE, "go1") == cache_key(make_modules(tmp_path / "b"), ONE, "go1")


CHANGES = {
    "a line of code": lambda root: (root / "one/cmd/main.go").write_text("package main // changed\n"),
    "a dependency": lambda root: (root / "one/go.mod").write_text("module one\nrequire x v1\n"),
    "a checksum": lambda root: (root / "one/go.sum").write_text("other\n"),
    "a new file": lambda root: (root / "one/cmd/more.go").write_text("package main\n"),
    "a renamed file": lambda root: (root / "one/cmd/main.go").rename(root / "one/cmd/other.go"),
}


@pytest.mark.parametrize("change", CHANGES, ids=list(CHANGES))
def test_every_change_changes_the_key(tmp_path: Path, change: str) -> None:
    modules = make_modules(tmp_path)
    before = cache_key(modules, ONE, "go1")
    CHANGES[change](modules)
    assert cache_key(modules, ONE, "go1") != before


def test_compiler_and_stamps_change_the_key(tmp_path: Path) -> None:
    modules = make_modules(tmp_path)
    before = cache_key(modules, ONE, "go1")
    assert cache_key(modules, ONE, "go2") != before
    assert cache_key(modules, ONE[1:], "go1") != before


def test_another_module_is_another_s_business(tmp_path: Path) -> None:
    modules = make_modules(tmp_path)
    before = cache_key(modules, ONE, "go1")
    (modules / "two").mkdir()
    (modules / "two" / "go.mod").write_text("module two\n")
    assert cache_key(modules, ONE, "go1") == before


def test_what_is_no_source_changes_nothing(tmp_path: Path) -> None:
    modules = make_modules(tmp_path)
    before = cache_key(modules, ONE, "go1")
    (modules / "README.md").write_text("text\n")
    assert cache_key(modules, ONE, "go1") == before


def test_stamps_reach_the_linker() -> None:
    kube = build_command("go", PROGRAMS[0], Path("/out/kube"))
    flags = kube[kube.index("-ldflags") + 1].split()
    assert "k8s.io/component-base/version.gitVersion=v1.36.3" in flags
    assert "k8s.io/client-go/pkg/version.gitMinor=36" in flags
    assert flags.count("-X") == 8


def test_every_program_has_its_source() -> None:
    own = [program for program in (*PROGRAMS, *KUEUE_PROGRAMS) if program.package.startswith("./")]
    assert [
        program.name for program in own if not (MODULES / program.module / program.package / "main.go").exists()
    ] == []


def test_stamped_versions_are_those_of_the_modules() -> None:
    kubernetes = (MODULES / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{settings.KUBERNETES_VERSION}" in kubernetes
    assert f"helm.sh/helm/v3 v{settings.HELM_VERSION}" in kubernetes
    kuberay = (MODULES / "kuberay" / "go.mod").read_text()
    assert f"{binaries.KUBERAY_MODULE} v{settings.KUBERAY_VERSION}" in kuberay
    kueue = (MODULES / "kueue" / "go.mod").read_text()
    assert f"{binaries.KUEUE_MODULE} v{settings.KUEUE_VERSION}" in kueue
    assert f"{binaries.KUBERAY_MODULE} v{settings.KUBERAY_VERSION}" in kueue, "both must speak of one RayCluster"


VERSIONS = {
    "go version go1.26.8 linux/amd64": (1, 26),
    "go version go1.9 linux/amd64": (1, 9),
    "go version go2.0rc1 linux/arm64": (2, 0),
    "something else": None,
}


@pytest.mark.parametrize("text", VERSIONS, ids=list(VERSIONS))
def test_parse_go_version(text: str) -> None:
    assert parse_go_version(text) == VERSIONS[text]
