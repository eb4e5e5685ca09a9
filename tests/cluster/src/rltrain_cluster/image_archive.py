"""Write and read container images as docker archives, without Docker: a tar file of layers, config and manifest.

The same files give the same bytes, so an image's identity (the digest of its config) says whether two images are the
same. This module must not know any container runtime.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rltrain_cluster.errors import ClusterError


@dataclass(frozen=True)
class ImageSpec:
    """An image of one layer: files by their absolute path inside, and how it starts.

    `files` maps the path inside to (content, mode).
    """

    name: str
    files: Mapping[str, tuple[bytes, int]]
    entrypoint: Sequence[str]
    user: str = "0:0"
    environment: Mapping[str, str] = field(default_factory=dict)


def _entry(name: str, size: int, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, kind
    return info  # times and owners stay zero: the same files give the same bytes


def _tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def layer(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A layer's tar: the files' directories first, each once, then the files by name."""
    directories = sorted({str(parent)[1:] for path in files for parent in Path(path).parents if str(parent) != "/"})
    entries = [(_entry(name, 0, 0o755, tarfile.DIRTYPE), b"") for name in directories]
    for path, (content, mode) in sorted(files.items()):
        if not path.startswith("/"):
            raise ValueError(f"{path!r}: a path inside an image is absolute")
        entries.append((_entry(path[1:], len(content), mode), content))
    return _tar(entries)


def write_docker_archive(spec: ImageSpec, archive: Path) -> str:
    """Write `spec` as a docker archive and return the image's id, `sha256:…`."""
    if ":" not in spec.name.rpartition("/")[2]:
        raise ValueError(f"{spec.name!r}: an image's name needs a tag (name:tag)")
    data = layer(spec.files)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(spec.entrypoint),
                "User": spec.user,
                "Env": [f"{name}={value}" for name, value in sorted(spec.environment.items())],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
            "history": [{"created_by": "rltrain_cluster.image_archive"}],
        },
        sort_keys=True,
    ).encode()
    identity = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{identity}.json", "RepoTags": [spec.name], "Layers": ["layer.tar"]}]
    parts = [(f"{identity}.json", config), ("layer.tar", data), ("manifest.json", json.dumps(manifest).encode())]
    archive.parent.mkdir(parents=True, exist_ok=True)
    scratch = archive.with_suffix(".tmp")
    scratch.write_bytes(_tar([(_entry(name, len(content), 0o644), content) for name, content in parts]))
    scratch.rename(archive)
    return f"sha256:{identity}"


def image_identity(archive: Path, name: str) -> str:
    """The id (`sha256:…`, the digest of its config) of the image called `name` in a docker archive.

    Reads headers and two small members only, whatever the archive's size.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            manifest = json.loads(_member(tar, "manifest.json"))
            for image in manifest:
                if name in (image.get("RepoTags") or []):
                    return f"sha256:{hashlib.sha256(_member(tar, image['Config'])).hexdigest()}"
    except (tarfile.TarError, KeyError, json.JSONDecodeError, OSError) as error:
        raise ClusterError(f"{archive}: not a readable, uncompressed docker archive: {error}") from error
    tags = [tag for image in manifest for tag in image.get("RepoTags") or []]
    raise ClusterError(f"{archive}: holds no image named {name}; it holds {', '.join(tags) or 'none with a name'}")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    content = tar.extractfile(name)
    assert content is not None, f"{name} is a file in every docker archive"
    return content.read()
