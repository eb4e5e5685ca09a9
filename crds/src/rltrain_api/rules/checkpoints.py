"""How a run keeps checkpoints and where it begins."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config

_RESUME_PATH = "trainer.resume_path"
_RESUME_FROM = "spec.storage.checkpoints.resumeFrom"
_RETAIN = "spec.storage.checkpoints.retain"
_STEP = re.compile(r"global_step_[0-9]+")


def some_checkpoint_is_kept(facts: Facts) -> Iterator[FieldError]:
    """max_ckpts_to_keep is not 0. SkyRL: C7."""
    if facts.trainer.max_ckpts_to_keep == 0:
        yield in_config(
            "trainer.max_ckpts_to_keep",
            ErrorCode.OUT_OF_RANGE,
            "0 would keep no checkpoint; use -1 to keep all, or a number from 1",
        )


def resume_path_is_named(facts: Facts) -> Iterator[FieldError]:
    """With resume_mode from_path, resume_path is set. SkyRL: 2.7, when the run resumes."""
    if facts.trainer.resume_mode == "from_path" and facts.trainer.resume_path is None:
        yield in_config(
            _RESUME_PATH,
            ErrorCode.REQUIRED,
            "is unset, and resume_mode is from_path; set it to a directory global_step_N",
        )


def resume_path_is_a_step(facts: Facts) -> Iterator[FieldError]:
    """With resume_mode from_path, resume_path ends in global_step_N. SkyRL: 2.7, when the run resumes."""
    mode, path = facts.trainer.resume_mode, facts.trainer.resume_path
    if mode == "from_path" and path is not None and not _STEP.fullmatch(posixpath.basename(path.rstrip("/"))):
        yield in_config(
            _RESUME_PATH,
            ErrorCode.INVALID,
            f"{path!r} is not the directory of one checkpoint; let it end in global_step_N, N being a number",
        )


def resume_path_is_used(facts: Facts) -> Iterator[FieldError]:
    """Without resume_mode from_path, resume_path is unset. Ours: it would be ignored."""
    mode, path = facts.trainer.resume_mode, facts.trainer.resume_path
    if mode != "from_path" and path is not None:
        yield in_config(
            _RESUME_PATH,
            ErrorCode.CONFLICT,
            f"{path!r} would be ignored, because resume_mode is {mode or 'null'}; set resume_mode to from_path, or "
            "remove resume_path",
        )


def beginning_is_one(facts: Facts) -> Iterator[FieldError]:
    """With storage.checkpoints.resumeFrom, resume_mode is latest or unset. Ours: a run begins in one place."""
    origin, mode = facts.spec.storage.checkpoints.resume_from, facts.trainer.resume_mode
    if origin is not None and mode != "latest":
        yield FieldError(
            _RESUME_FROM,
            ErrorCode.CONFLICT,
            f"names step {origin.step} of {origin.job}, and config.trainer.resume_mode is {mode or 'null'}, which "
            "begins elsewhere; remove one of the two",
        )


def resume_from_is_inside_the_volume(facts: Facts) -> Iterator[FieldError]:
    """resumeFrom.path is relative and has no `..`, `.` or double slash. Ours: it lies below the mount of the volume."""
    origin = facts.spec.storage.checkpoints.resume_from
    if origin is None or origin.path is None:
        return
    direct = posixpath.normpath(origin.path).lstrip("/")
    if direct != origin.path or direct.split("/")[0] == "..":
        inside = "/".join(part for part in direct.split("/") if part != "..") or origin.job
        yield FieldError(
            f"{_RESUME_FROM}.path",
            ErrorCode.INVALID,
            f"{origin.path!r} is not a plain path inside the volume; write {inside!r}, say",
        )


def resume_from_is_in_one_place(facts: Facts) -> Iterator[FieldError]:
    """resumeFrom.url comes without claimName and path. Ours: the step is in an object store or on a volume."""
    origin = facts.spec.storage.checkpoints.resume_from
    if origin is not None and origin.url is not None and (origin.claim_name or origin.path):
        yield FieldError(
            f"{_RESUME_FROM}.url",
            ErrorCode.CONFLICT,
            f"{origin.url!r} holds the step, and claimName or path say that a volume does; remove one of the two",
        )


def retention_is_said_once(facts: Facts) -> Iterator[FieldError]:
    """With storage.checkpoints.retain, max_ckpts_to_keep is -1 or unset. Ours: two would say how many are kept."""
    keep = facts.trainer.max_ckpts_to_keep
    if facts.spec.storage.checkpoints.retain is not None and keep != -1:
        yield FieldError(
            _RETAIN,
            ErrorCode.CONFLICT,
            f"says which steps are kept, and config.trainer.max_ckpts_to_keep is {keep}; write retain.last: {keep} and "
            "remove max_ckpts_to_keep",
        )


def upstream_keeps_the_newest(facts: Facts) -> Iterator[FieldError]:
    """retain goes with the builtin trainer. Ours: SkyRL keeps the newest max_ckpts_to_keep, and nothing else."""
    if facts.spec.storage.checkpoints.retain is not None:
        yield FieldError(
            _RETAIN,
            ErrorCode.NOT_YET_SUPPORTED,
            "is for the builtin trainer; SkyRL keeps the newest config.trainer.max_ckpts_to_keep steps",
        )


def upstream_resumes_from_its_own(facts: Facts) -> Iterator[FieldError]:
    """resumeFrom goes with the builtin trainer. Ours: SkyRL would begin from it again in every attempt."""
    origin = facts.spec.storage.checkpoints.resume_from
    if origin is not None:
        yield FieldError(
            _RESUME_FROM,
            ErrorCode.NOT_YET_SUPPORTED,
            "is for the builtin trainer, because SkyRL would begin from that step again in every attempt; copy "
            f"global_step_{origin.step} and its marker to config.trainer.ckpt_path and let resume_mode be latest",
        )


RULES: tuple[Rule, ...] = (
    some_checkpoint_is_kept,
    resume_path_is_named,
    resume_path_is_a_step,
    resume_path_is_used,
    beginning_is_one,
    resume_from_is_inside_the_volume,
    resume_from_is_in_one_place,
    retention_is_said_once,
)
SKYRL_RULES: tuple[Rule, ...] = (upstream_resumes_from_its_own, upstream_keeps_the_newest)
