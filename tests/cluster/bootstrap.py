"""Prepare a bare machine for a target of the Makefile, then hand over to tests/cluster/tasks.py.

    python3 tests/cluster/bootstrap.py TARGET [ARGUMENT ...]

Needs Python 3.11 and nothing else: only the standard library is imported here. It installs missing packages of the
distribution (as root, where apt-get is), makes one Python environment per set of locks in the cache, which all
checkouts share, and a thin `.venv` in this checkout that adds the workspace's own sources and commands to it.
This script must not know what the targets do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = ("crds", "operator", "trainer", "tests/cluster")
OLDEST_PYTHON = (3, 11)
PIP_LIMIT = 3600.0  # seconds for one installation, downloads included
APT_LIMIT = 1200.0

# A program that a target needs, and the package of Debian and Ubuntu that has it.
NODE_TOOLS = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
IMAGE_TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "/usr/bin/python3": "python3"}


@dataclass(frozen=True)
class Target:
    """What a target of the Makefile needs: programs by their package, and root where containers run."""

    summary: str
    tools: tuple[dict[str, str], ...] = ()
    needs_root: bool = False
    without: str = ""  # what still works where the needs cannot be met


WITHOUT_NODES = "`make test` and `make test-integration` work without root"
TARGETS = {
    "demo": Target(
        "train the quickstart on a Kubernetes of its own and show the result",
        (NODE_TOOLS, IMAGE_TOOLS),
        needs_root=True,
        without=WITHOUT_NODES,
    ),
    "demo-down": Target("remove everything that `make demo` started"),
    "test": Target("check, unit and property tests"),
    "check": Target("lint, types, formatting, chart, generated files"),
    "test-integration": Target("tests on a real API server with fake nodes"),
    "test-e2e": Target(
        "tests on real nodes with real training",
        (NODE_TOOLS, IMAGE_TOOLS),
        needs_root=True,
        without=WITHOUT_NODES,
    ),
    "manifests": Target("regenerate the CRD and the chart's copy of it"),
    "lock": Target("resolve and lock the Python dependencies again"),
    "cluster": Target(
        "start the local Kubernetes and leave it running", (NODE_TOOLS,), needs_root=True, without=WITHOUT_NODES
    ),
    "cluster-down": Target("stop the local Kubernetes"),
    "images": Target(
        "build the operator's and the trainer's images",
        (IMAGE_TOOLS,),
        needs_root=True,
        without="Docker builds the same images without root (images/README.md)",
    ),
}


class MissingError(Exception):
    """Something that a target needs is not here and cannot be had; the message is the one line a person reads."""


def say(message: str) -> None:
    print(f"setup: {message}", flush=True)


# --- the distribution's packages ------------------------------------------------------------------------------------


def missing_packages(tools: Sequence[dict[str, str]], found: Callable[[str], bool]) -> list[str]:
    """The packages of those programs that `found` does not find, each once."""
    needed = {program: package for group in tools for program, package in group.items()}
    return sorted({package for program, package in needed.items() if not found(program)})


def is_installed(program: str) -> bool:
    """Whether a program is on the path of root (its sbin directories may be missing from a shell's PATH)."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path) is not None


def ensure_packages(target: str, *, root: bool, apt: str | None) -> None:
    """Install what `target` needs from the distribution, or raise MissingError with one line that says what to do."""
    needs = TARGETS[target]
    can = f"; {needs.without}" if needs.without else ""
    backend = os.environ.get("CLUSTER", "embedded")
    local = backend == "embedded"  # other back ends bring their own nodes; kind's take images that are built here
    if needs.needs_root and local and not root:
        raise MissingError(f"make {target}: needs root for its containers{can}")
    tools = [group for group in needs.tools if local or (backend == "kind" and group is IMAGE_TOOLS)]
    packages = missing_packages(tools, is_installed)
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    if not packages:
        return
    if not root or apt is None:
        who = "apt-get is not here" if root else "only root can install packages"
        raise MissingError(f"make {target}: missing {' '.join(packages)} ({who}); install them and try again{can}")
    say(f"installing packages of the distribution: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [apt, "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    for command in ([apt, "update", "--quiet"], install):
        done = _run_quietly(command, limit=APT_LIMIT, environment=environment)
        if done.returncode != 0:
            said = " ".join(done.stdout.split()[-40:])
            raise MissingError(f"make {target}: {' '.join(command)} failed{can}: … {said}")


def _run_quietly(
    command: Sequence[str], *, limit: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        env=environment,
        check=False,
    )


# --- the Python environment -----------------------------------------------------------------------------------------


def cache_directory() -> Path:
    """`RLTRAIN_CACHE`, else ~/.cache/rltrain."""
    return Path(os.environ.get("RLTRAIN_CACHE") or Path.home() / ".cache" / "rltrain").absolute()


def environment_key(locks: Sequence[bytes], wheel: str, python: str) -> str:
    """Names one environment: the locks, torch's wheel at hand ("" for the index's build), the interpreter."""
    digest = hashlib.sha256()
    for part in [*locks, wheel.encode(), python.encode()]:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def find_torch_wheel(directories: Sequence[Path], requirement: str, tag: str, machine: str) -> Path | None:
    """A CPU wheel of the pinned torch in `directories` that fits this interpreter (`tag`, such as "cp311")."""
    version = requirement.partition("==")[2]
    pattern = f"torch-{version}+cpu-{tag}-*_{machine}.whl"
    return next((wheel for directory in directories for wheel in sorted(directory.glob(pattern))), None)


def wheel_directories() -> list[Path]:
    """Where wheels may lie at hand: `RLTRAIN_WHEELS`, and the folder beside the repository."""
    chosen = os.environ.get("RLTRAIN_WHEELS")
    return ([Path(chosen)] if chosen else []) + [REPOSITORY.parent / "shared" / "wheels"]


def ensure_dependencies(cache: Path) -> Path:
    """The environment with all locked dependencies, complete; made on the first call, which takes a few minutes."""
    lock = REPOSITORY / "requirements" / "dev.txt"
    torch = (REPOSITORY / "requirements" / "torch.txt").read_text().strip()
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheel = find_torch_wheel(wheel_directories(), torch, tag, os.uname().machine)
    python = f"{sys.version} {Path(sys.base_prefix).resolve()}"
    key = environment_key([lock.read_bytes(), torch.encode()], wheel.name if wheel else "", python)
    environment = cache / "venv" / key
    if _is_complete(environment):
        return environment
    environment.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(environment.with_suffix(".lock")):
        if not _is_complete(environment):  # another process may have made it while we waited
            _install_dependencies(environment, lock, torch, wheel)
    return environment


def _is_complete(environment: Path) -> bool:
    return (environment / "complete").exists()


def _install_dependencies(environment: Path, lock: Path, torch: str, wheel: Path | None) -> None:
    shutil.rmtree(environment, ignore_errors=True)  # what an earlier, interrupted run has left
    begin = time.monotonic()
    say(f"making the Python environment {environment}")
    venv.create(environment, with_pip=True, symlinks=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    # The lock is complete, and it leaves out what skyrl asks for beyond its configuration (pyproject.toml).
    _pip([*pip, "--no-deps", "--require-hashes", "-r", str(lock)], "the locked dependencies")
    if wheel:
        _pip([*pip, "--no-deps", "--no-index", "--find-links", str(wheel.parent), torch], f"{torch} from {wheel.name}")
    else:
        _pip([*pip, torch], f"{torch} with its own dependencies (no CPU wheel at hand)")
    (environment / "complete").touch()
    say(f"the Python environment is complete after {time.monotonic() - begin:.0f} s")


def _pip(command: list[str], what: str) -> None:
    say(f"installing {what} …")
    done = _run_quietly(command, limit=PIP_LIMIT)
    if done.returncode != 0:
        raise MissingError(f"cannot install {what}; pip said:\n{done.stdout[-3000:]}")


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    deadline = time.monotonic() + PIP_LIMIT
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MissingError(f"{lock}: another process still holds it after {PIP_LIMIT:g} s") from None
                time.sleep(1)
        yield


# --- this checkout's own environment --------------------------------------------------------------------------------


def ensure_checkout(dependencies: Path, checkout: Path) -> Path:
    """`.venv` in the checkout: its dependencies come from `dependencies`, its own packages from the sources here.

    Returns its Python. Its commands (`.venv/bin/kubectl-rltrain`, …) are those of the members' pyproject files.
    """
    environment = checkout / ".venv"
    scripts = console_scripts(checkout)
    state = json.dumps([str(dependencies), str(checkout), scripts])
    marker = environment / "complete"
    if marker.exists() and marker.read_text() == state:
        return environment / "bin" / "python"
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=False, symlinks=True)
    packages = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sources = [str(checkout / member / "src") for member in MEMBERS]
    lines = [*sources, str(dependencies / packages)]
    (environment / packages / "rltrain.pth").write_text("\n".join([*lines, ""]))
    for name, entry in scripts.items():
        script = environment / "bin" / name
        script.write_text(script_text(environment / "bin" / "python", entry))
        script.chmod(0o755)
    marker.write_text(state)
    return environment / "bin" / "python"


def console_scripts(checkout: Path) -> dict[str, str]:
    """Commands of the workspace's members: name to `module:function`."""
    import tomllib  # here, so that an older Python comes as far as the message that it is too old

    found: dict[str, str] = {}
    for path in sorted(checkout.glob("*/pyproject.toml")):
        found.update(tomllib.loads(path.read_text())["project"].get("scripts", {}))
    return found


def script_text(python: Path, entry: str) -> str:
    """A command that calls `entry` (`module:function`) with this environment's Python."""
    module, _, function = entry.partition(":")
    return f"#!{python}\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


# --- the command ----------------------------------------------------------------------------------------------------


def hand_over(python: Path, arguments: Sequence[str]) -> NoReturn:
    """Become tasks.py, so that signals and the terminal are its own."""
    sys.stdout.flush()
    os.chdir(REPOSITORY)
    os.execv(python, [str(python), str(REPOSITORY / "tests" / "cluster" / "tasks.py"), *arguments])  # noqa: S606


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in ("help", *TARGETS):
        print(f"usage: bootstrap.py {{help,{','.join(TARGETS)}}} [ARGUMENT ...]", file=sys.stderr)
        return 2
    target, *rest = arguments
    if target == "help":
        for name, needs in TARGETS.items():
            print(f"make {name:<17} {needs.summary}")
        return 0
    try:
        if sys.version_info[:2] < OLDEST_PYTHON:
            raise MissingError(f"make {target}: needs Python 3.11 or newer; name one with `make {target} PYTHON=…`")
        ensure_packages(target, root=os.geteuid() == 0, apt=shutil.which("apt-get"))
        python = ensure_checkout(ensure_dependencies(cache_directory()), REPOSITORY)
    except MissingError as error:
        print(error, file=sys.stderr)
        return 1
    hand_over(python, [target, *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
