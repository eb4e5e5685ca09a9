"""What commands in a launch script mean for a job in the cluster: nothing, or something that a person must see to.

Must not know how a script is read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from rltrain_api.convert.report import Level


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands that change nothing about the run: they print, test, wait, make directories, or set up the shell itself.
WITHOUT_EFFECT = _names(
    "(( set shopt echo printf true false : exit return trap umask ulimit date pwd ls cat tee which type command "
    "sleep wait mkdir cd pushd popd test [ [[ nvidia-smi rocm-smi df free du clear hostname uname kill pkill "
    "killall whoami id env head tail grep sed awk tr cut sort uniq wc touch chmod time local readonly"
)
_SETS_UP_THE_MACHINE = _names("conda mamba micromamba module pyenv nvm deactivate")
_INSTALLS = _names("pip pip3 apt apt-get dnf yum npm uv poetry huggingface-cli hf wandb")
_MOVES_FILES = _names("cp mv rm ln rsync scp wget curl tar unzip aws gsutil gcloud s5cmd azcopy git gzip dd")
_CLUSTER = _names("ray sky modal kubectl scontrol squeue sinfo sbatch scancel srun mpirun")
_SHELLS = _names("bash sh zsh dash ssh")
_PROGRAMS = _names("python python2 python3 uv uvx torchrun accelerate java node")
_INITIALIZER = "if the run needs it, let an initializer do it (spec.storage.initializers)"


def explain_command(words: Sequence[str]) -> tuple[Level, str] | None:
    """What is to be said of a command that is not the training program; None where it has no effect on the run.

    Args:
        words: The command and its arguments, as far as they are known; at least one.
    """
    name = posixpath.basename(words[0])
    if words[0] in WITHOUT_EFFECT or name in WITHOUT_EFFECT:
        return None
    if words[0] in ("source", "."):
        return _explain_source(words[1] if len(words) > 1 else "")
    if name in _SETS_UP_THE_MACHINE:
        return Level.NOTE, f"`{name}` is left out: pods have the environment of their image"
    if name in _CLUSTER:
        return Level.NOTE, f"`{name}` is left out: the operator makes the cluster and removes it"
    installs = name in _INSTALLS and not (name == "uv" and words[1:2] == ["run"])
    if installs or list(words[1:3]) == ["-m", "pip"]:
        return Level.CHECK, f"`{' '.join(words[:2])}` is left out: the image must hold what it installs or logs in to"
    if name in _MOVES_FILES:
        return Level.MISSING, f"`{name}` is not carried over: it moves or fetches files; {_INITIALIZER}"
    if name in _SHELLS or name.endswith(".sh"):
        return (
            Level.MISSING,
            f"`{' '.join(words[:2])}` is not carried over; if it starts the training, convert it instead",
        )
    if name.rstrip("0123456789.") in _PROGRAMS:
        program = next((word for word in words[1:] if word.endswith(".py") or "." in word), name)
        return Level.MISSING, f"the program {program} is not carried over; {_INITIALIZER}"
    return Level.MISSING, f"`{name}` is not carried over; {_INITIALIZER}"


def _explain_source(path: str) -> tuple[Level, str]:
    if path.endswith(("bin/activate", ".bashrc", ".profile", ".bash_profile", "conda.sh")):
        return Level.NOTE, f"`source {path}` is left out: pods have the environment of their image"
    return (
        Level.MISSING,
        f"`source {path}` is not read: give the variables that it sets with --set, and add those that it exports to "
        "runtime.env",
    )
