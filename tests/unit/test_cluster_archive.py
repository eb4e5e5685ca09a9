"""Docker archives written without Docker, and what tells two images apart."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from rltrain_cluster.containerd import full_name
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.image_archive import ImageSpec, image_identity, layer, write_docker_archive


def make_spec(content: bytes = b"program", name: str = "local/tool:1") -> ImageSpec:
    return ImageSpec(name, {"/bin/tool": (content, 0o755)}, ["/bin/tool"], user="1000:1000", environment={"A": "b"})


def test_archive_holds_what_a_runtime_reads(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    identity = write_docker_archive(make_spec(), archive)
    with tarfile.open(archive) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr] # only files are in it
    (manifest,) = json.loads(members["manifest.json"])
    config = json.loads(members[manifest["Config"]])
    assert manifest["RepoTags"] == ["local/tool:1"]
    assert f"sha256:{hashlib.sha256(members[manifest['Config']]).hexdigest()}" == identity
    layers = [f"sha256:{hashlib.sha256(members[name]).hexdigest()}" for name in manifest["Layers"]]
    assert config["rootfs"]["diff_ids"] == layers
    assert config["config"] == {"Entrypoint": ["/bin/tool"], "User": "1000:1000", "Env": ["A=b"]}


def test_layer_has_directories_before_files(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(layer({"/a/b/tool": (b"x", 0o755), "/a/text": (b"yy", 0o644)}))
    with tarfile.open(path) as tar:
        found = [(member.name, member.isdir(), member.mode, member.mtime) for member in tar.getmembers()]
    assert found == [
        ("a", True, 0o755, 0),
        ("a/b", True, 0o755, 0),
        ("a/b/tool", False, 0o755, 0),
        ("a/text", False, 0o644, 0),
    ]


def test_identity_says_whether_two_images_are_the_same(tmp_path: Path) -> None:
    def identity(content: bytes, file: str) -> str:
        return write_docker_archive(make_spec(content), tmp_path / file)

    assert identity(b"one", "a.tar") == identity(b"one", "b.tar")
    assert identity(b"one", "a.tar") != identity(b"two", "c.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert image_identity(tmp_path / "c.tar", "local/tool:1") == identity(b"two", "d.tar")


def test_wrong_name_says_which_names_there_are(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    write_docker_archive(make_spec(), archive)
    with pytest.raises(ClusterError, match=r"no image named other:1; it holds local/tool:1"):
        image_identity(archive, "other:1")


@pytest.mark.parametrize("content", [b"", b"not a tar file", b"\0" * 10240], ids=["empty", "text", "no members"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(content)
    with pytest.raises(ClusterError, match="not a readable, uncompressed docker archive"):
        image_identity(archive, "a:1")


def test_bad_specs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a tag"):
        write_docker_archive(make_spec(name="registry:5000/tool"), tmp_path / "a.tar")
    with pytest.raises(ValueError, match="absolute"):
        layer({"bin/tool": (b"", 0o755)})


FULL_NAMES = {
    "tool:1": "docker.io/library/tool:1",
    "tool": "docker.io/library/tool:latest",
    "team/tool:1": "docker.io/team/tool:1",
    "localhost/tool:1": "localhost/tool:1",
    "rltrain.local/tool:1": "rltrain.local/tool:1",
    "registry:5000/tool": "registry:5000/tool:latest",
}


@pytest.mark.parametrize("name", FULL_NAMES, ids=list(FULL_NAMES))
def test_full_name(name: str) -> None:
    assert full_name(name) == FULL_NAMES[name]
