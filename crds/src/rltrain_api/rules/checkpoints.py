"""How a run keeps checkpoints and where it begins."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config

_RESUME_PATH = "trainer.resume_path"
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


RULES: tuple[Rule, ...] = (
    some_checkpoint_is_kept,
    resume_path_is_named,
    resume_path_is_a_step,
    resume_path_is_used,
)
SKYRL_RULES: tuple[Rule, ...] = ()
