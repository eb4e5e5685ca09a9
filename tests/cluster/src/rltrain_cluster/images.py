"""Build the project's images without Docker: `python -m rltrain_cluster.images [operator|trainer ...]`, as root.

buildah builds images/*.Dockerfile, the same files that Docker builds elsewhere, on a base that mmdebstrap makes from
the distribution. The result is a docker archive in the cache, keyed by everything that decides its content, and found
there the next time. What belongs to this machine (pip's settings, certificates, wheels) is mounted while building; no
layer holds it. This module must not know how images reach the nodes of a cluster.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rltrain_cluster.errors import ClusterError
from rltrain_cluster.processes import run
from rltrain_cluster.settings import cache_directory
from rltrain_cluster.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[4]
REGISTRY = "rltrain.local"  # never asked: these images are loaded into the nodes
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BASE_EXCLUDES = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
BASE_HOOK = 'rm -f "$1"/etc/apt/sources.list'  # names this machine's mirrors
OLDEST_PYTHON = (3, 11)

MOUNT = "/run/rltrain-build"  # pip's settings and certificates, inside a build
WHEELS_MOUNT = "/run/rltrain-wheels"
BUILD_LIMIT = 2400.0  # seconds for one image, downloads included
PROGRESS_EVERY = 20.0  # seconds between two lines of progress

Report = Callable[[str], None]


@dataclass(frozen=True)
class ImageRecipe:
    """What one image is made of, as paths below the repository: exactly these are the context of its build."""

    dockerfile: str
    inputs: tuple[str, ...]
    needs_torch: bool = False


RECIPES = {
    "operator": ImageRecipe(
        "images/operator.Dockerfile", ("requirements/build.txt", "requirements/operator.txt", "crds", "operator")
    ),
    "trainer": ImageRecipe(
        "images/trainer.Dockerfile",
        ("requirements/build.txt", "requirements/trainer.txt", "crds", "trainer"),
        needs_torch=True,
    ),
}


@dataclass(frozen=True)
class ImageArchive:
    """A built image: an uncompressed docker archive that holds `name`; `content_key` changes with its content."""

    path: Path
    name: str
    content_key: str


def image_name(image: str) -> str:
    """The name under which the nodes of a local cluster know one of our images."""
    return f"{REGISTRY}/{image}:dev"


def build(image: str, report: Report = print) -> ImageArchive:
    """Return the archive of `image` ("operator" or "trainer"), building what the cache does not hold.

    Raises ClusterError, with the end of the build's log, when a part is missing or a step fails.
    """
    recipe = RECIPES[image]
    base = _base_name()
    wheel = find_torch_wheel(_wheel_directories(), _base_python_tag()) if recipe.needs_torch else None
    options = _torch_arguments(wheel) if recipe.needs_torch else []
    key = content_key(REPOSITORY, [recipe.dockerfile, *recipe.inputs], [base, *options, wheel.name if wheel else ""])
    directory = cache_directory() / "images"
    archive = ImageArchive(directory / f"{image}-{key}.tar", image_name(image), key)
    if archive.path.exists():
        report(f"image {archive.name}: in the cache")
        return archive
    _require_tools()
    directory.mkdir(parents=True, exist_ok=True)
    with _only_one_build(directory / "lock"):
        if not archive.path.exists():  # another process may have built it while we waited
            _ensure_base(base, report)
            _build_archive(recipe, archive, base, options, wheel, report)
    for outdated in directory.glob(f"{image}-*.tar"):
        if outdated != archive.path:
            outdated.unlink(missing_ok=True)
    return archive


def content_key(root: Path, inputs: Sequence[str], settings: Sequence[str]) -> str:
    """A digest of `settings` and of all files of `inputs` (files or directories below `root`), by name and content."""
    digest = hashlib.sha256("\0".join(settings).encode())
    for name, path in _input_files(root, inputs):
        content = path.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _input_files(root: Path, inputs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for name in sorted(inputs):
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(root)), path


def stage_context(root: Path, inputs: Sequence[str], context: Path) -> None:
    """Copy exactly `inputs` into `context`, without their times: the same content finds buildah's cached layers."""
    for name, path in _input_files(root, inputs):
        copy = context / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
    for path in [context, *context.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (0, 0))


def find_torch_wheel(directories: Sequence[Path], python_tag: str) -> Path | None:
    """A wheel of torch at hand that fits the base's Python (`python_tag`, such as "cp311") and the locked version."""
    version = _torch_requirement().partition("==")[2]
    pattern = f"torch-{version}+cpu-{python_tag}-*_{os.uname().machine}.whl"
    return next((wheel for directory in directories for wheel in sorted(directory.glob(pattern))), None)


def _torch_requirement() -> str:
    return (REPOSITORY / "requirements" / "torch.txt").read_text().strip()


def _wheel_directories() -> list[Path]:
    """Where wheels may lie at hand: `RLTRAIN_WHEELS`, and the folder beside the repository."""
    chosen = os.environ.get("RLTRAIN_WHEELS")
    beside = REPOSITORY.parent / "shared" / "wheels"
    return [path for path in ([Path(chosen)] if chosen else []) + [beside] if path.is_dir()]


def _torch_arguments(wheel: Path | None) -> list[str]:
    """A wheel at hand needs nothing else (its dependencies are in the lock); the index's build brings its own."""
    options = f"--no-deps --no-index --find-links {WHEELS_MOUNT}" if wheel else ""
    return [f"TORCH_REQUIREMENT={_torch_requirement()}", f"TORCH_OPTIONS={options}"]


# --- the base image -------------------------------------------------------------------------------------------------


def _release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _base_name() -> str:
    """The base's name says all that it is made of: distribution, suite, packages, what is left out."""
    parts = [(REPOSITORY / "images/base.Dockerfile").read_text(), *BASE_PACKAGES, *BASE_EXCLUDES, BASE_HOOK]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    release = _release()
    return f"localhost/rltrain-base-{release['ID']}:{release.get('VERSION_CODENAME', 'unknown')}-{digest}"


def _base_python_tag() -> str:
    """The distribution's own Python, which the base will have, as a wheel's tag."""
    code = "import sys; print(*sys.version_info[:2])"
    what = "the distribution's Python (install python3)"
    major, minor = (int(part) for part in run(["/usr/bin/python3", "-c", code], what=what).split())
    if (major, minor) < OLDEST_PYTHON:
        raise ClusterError(
            f"/usr/bin/python3 is Python {major}.{minor}: an image of this distribution needs 3.11 or newer; "
            "build the images with Docker on another base (images/README.md)"
        )
    return f"cp{major}{minor}"


def _require_tools() -> None:
    if os.geteuid() != 0:
        raise ClusterError("building images needs root (mmdebstrap and buildah's chroot isolation)")
    missing = [tool for tool in ("buildah", "mmdebstrap") if shutil.which(tool) is None]
    if missing:
        raise ClusterError(f"building images needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")


def _apt_sources(suite: str) -> list[str]:
    """The distribution's own sources as this machine has them, mirrors included, as lines of sources.list."""
    listed = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        what="reading the sources of apt",
    )
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    lines = [f"deb {line}" for line in listed.splitlines() if line.split()[1:2] and line.split()[1] in wanted]
    return list(dict.fromkeys(lines))


def _ensure_base(base: str, report: Report) -> None:
    if _buildah_has(base):
        return
    suite = _release().get("VERSION_CODENAME", "")
    with tempfile.TemporaryDirectory(dir=cache_directory() / "images", prefix="base-") as scratch:
        Path(scratch).chmod(0o755)  # mmdebstrap lets apt's own user look in
        command = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(BASE_PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in BASE_EXCLUDES]
        command += [f"--customize-hook={BASE_HOOK}", suite, str(Path(scratch) / "rootfs.tar"), *_apt_sources(suite)]
        _run_with_progress(command, "base image: installing a minimal distribution", report)
        dockerfile = REPOSITORY / "images/base.Dockerfile"
        command = _buildah("bud", "--isolation", "chroot", "-f", str(dockerfile), "-t", base, scratch)
        _run_with_progress(command, "base image: packing", report)


# --- the build ------------------------------------------------------------------------------------------------------


def _buildah(*arguments: str) -> list[str]:
    """buildah with a storage of our own: it neither sees nor touches anybody else's images."""
    storage = cache_directory() / "containers"
    where = ["--root", str(storage / "storage"), "--runroot", str(storage / "run"), "--storage-driver", "overlay"]
    return ["buildah", *where, *arguments]


def _buildah_has(image: str) -> bool:
    """Whether the storage holds `image`; a damaged storage shows itself at the build that follows."""
    command = _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", image)
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _build_archive(
    recipe: ImageRecipe, archive: ImageArchive, base: str, options: list[str], wheel: Path | None, report: Report
) -> None:
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rltrain-image-")))
        context = scratch / "context"
        context.mkdir()
        stage_context(REPOSITORY, recipe.inputs, context)
        command = _buildah("bud", "--isolation", "chroot", "--network", "host", "--layers")
        command += ["-f", str(REPOSITORY / recipe.dockerfile), "-t", archive.name]
        for argument in [f"BASE_IMAGE={base}", f"PIP_CONFIG_FILE={MOUNT}/pip.conf", *options]:
            command += ["--build-arg", argument]
        for mount in _build_mounts(scratch / "mounts", wheel):
            command += ["--volume", mount]
        _run_with_progress([*command, str(context)], f"image {archive.name}: building", report)
    unfinished = archive.path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    command = _buildah("push", "--quiet", archive.name, f"docker-archive:{unfinished}:{archive.name}")
    _run_with_progress(command, f"image {archive.name}: saving", report)
    unfinished.rename(archive.path)
    size = archive.path.stat().st_size / 1e6
    report(f"image {archive.name}: {size:.0f} MB, built in {time.monotonic() - begin:.0f} s")


def _build_mounts(directory: Path, wheel: Path | None) -> list[str]:
    """Write pip's settings for a build into `directory` and return the `--volume` arguments that bring them in."""
    directory.mkdir()
    certificates = directory / "certificates.crt"
    bundle = next((path for path in _certificate_bundles() if path.is_file()), None)
    if bundle:
        shutil.copyfile(bundle, certificates)
    settings = parse_pip_settings(run([sys.executable, "-m", "pip", "config", "list"], what="reading pip's settings"))
    text, folders = pip_configuration(settings, has_certificates=bundle is not None)
    (directory / "pip.conf").write_text(text)
    mounts = [f"{directory}:{MOUNT}:ro"]
    for number, folder in enumerate(folders):
        (directory / f"links-{number}").mkdir()
        mounts.append(f"{folder}:{MOUNT}/links-{number}:ro")
    return [*mounts, f"{wheel.parent}:{WHEELS_MOUNT}:ro"] if wheel else mounts


def _certificate_bundles() -> list[Path]:
    names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    chosen = [Path(os.environ[name]) for name in names if os.environ.get(name)]
    return [*chosen, Path("/etc/ssl/certs/ca-certificates.crt")]


def parse_pip_settings(listed: str) -> dict[str, str]:
    """The settings that `pip config list` prints, one per option: the environment's win, then `install`'s."""
    order = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in order and order[section] >= found.get(option, (0, ""))[0]:
            found[option] = (order[section], str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in found.items()}


def pip_configuration(settings: dict[str, str], *, has_certificates: bool) -> tuple[str, list[Path]]:
    """The text of a pip.conf for inside a build, and the folders of `find-links` that must be mounted as links-N."""
    folders = [Path(link) for link in settings.get("find-links", "").split() if Path(link).is_dir()]
    remote = [link for link in settings.get("find-links", "").split() if "://" in link]
    inside = {name: value for name, value in settings.items() if name not in ("find-links", "cert", "client-cert")}
    if has_certificates:
        inside["cert"] = f"{MOUNT}/certificates.crt"
    if folders or remote:
        inside["find-links"] = " ".join([*remote, *(f"{MOUNT}/links-{number}" for number in range(len(folders)))])
    lines = [f"{name} = {' '.join(value.split())}" for name, value in sorted(inside.items())]
    return "\n".join(["[global]", *lines, ""]), folders


@contextlib.contextmanager
def _only_one_build(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until("another build of images to end", taken, BUILD_LIMIT, interval=1.0)
        yield


def _run_with_progress(command: Sequence[str], title: str, report: Report) -> None:
    """Run `command` to its end with its output in a log; tell every now and then that it goes on, and at which step."""
    report(f"{title} …")
    begin = time.monotonic()
    with tempfile.TemporaryFile(mode="w+", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                elapsed = time.monotonic() - begin
                try:
                    process.wait(timeout=min(PROGRESS_EVERY, max(BUILD_LIMIT - elapsed, 0.1)))
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - begin
                    if elapsed >= BUILD_LIMIT:
                        raise ClusterError(f"{title}: no end after {elapsed:.0f} s\n{_tail(log.fileno())}") from None
                    report(f"{title}: {_last_line(log.fileno())} ({elapsed:.0f} s)")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
        if process.returncode != 0:
            raise ClusterError(f"{title}: failed with {process.returncode}\n{_tail(log.fileno())}")


def _tail(descriptor: int, lines: int = 25) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, 8192, max(0, size - 8192)).decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _last_line(descriptor: int) -> str:
    """The newest line of a log that is not pip's picture of a download."""
    lines = [line.strip() for line in _tail(descriptor).splitlines() if "━" not in line and line.strip()]
    return lines[-1][:100] if lines else "at work"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rltrain_cluster.images", description="Build the project's images.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"which (all by default): {', '.join(RECIPES)}")
    chosen = parser.parse_args(arguments).images or list(RECIPES)
    if unknown := [image for image in chosen if image not in RECIPES]:
        parser.error(f"no such image: {', '.join(unknown)} (there are {', '.join(RECIPES)})")
    try:
        for image in chosen:
            archive = build(image)
            print(f"{archive.name} {archive.path}")
    except ClusterError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
