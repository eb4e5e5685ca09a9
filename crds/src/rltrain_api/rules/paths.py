"""Files that matter lie on a volume: what a pod keeps elsewhere is lost with it, and no other pod sees it.

SkyRL's defaults are in a home directory or under /tmp and so are never on a volume. Which of them a run really writes
depends on other fields; a path that nothing writes or reads is left alone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from rltrain_api.config import TrainerConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.volumes import is_below, mount_paths
from rltrain_api.rules.wording import told, written
from rltrain_api.spec.storage import STORE_URL_PATTERN

_DATA_KINDS = (".parquet", ".json", ".jsonl")
_HUB_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_OBJECT_STORES = ("s3://", "gs://", "gcs://")  # what SkyRL's file functions know
_STORE_URL = re.compile(STORE_URL_PATTERN)
_LOGS_TO_STDOUT = "SKYRL_DUMP_INFRA_LOG_TO_STDOUT"
_DEFAULT_LOG_PATH = TrainerConfig.model_fields["log_path"].default


def _not_mounted(
    facts: Facts, field: str, path: str, mounts: list[str], *, is_set: bool = True
) -> Iterator[FieldError]:
    """One error unless the path is on one of the mounts."""
    if any(is_below(path, mount) for mount in mounts):
        return
    where = " or ".join(dict.fromkeys(mounts)) or "the directory of a volume, which the job has none of"
    if "://" in path and not facts.runs_upstream:
        yield in_config(
            field,
            ErrorCode.NOT_YET_SUPPORTED,
            f"{path!r} is in an object store, where the builtin trainer does not look for it; use a path under {where}",
        )
        return
    what = repr(path) if is_set else f"is unset, and SkyRL's default {path!r}"
    yield in_config(
        field,
        ErrorCode.NOT_MOUNTED,
        f"{what} is on no volume that may hold it, so pods would neither share nor keep it; use a path under {where}",
    )


def checkpoints_are_on_their_volume(facts: Facts) -> Iterator[FieldError]:
    """ckpt_path is where storage.checkpoints is; with upstream's trainer in any object store. Ours (2.8)."""
    path = facts.trainer.ckpt_path
    if facts.runs_upstream and path.startswith(_OBJECT_STORES):
        return
    is_set = "ckpt_path" in facts.trainer.model_fields_set
    url = facts.spec.storage.checkpoints.url
    if url is not None:
        if not is_below(path, url):
            yield in_config(
                "trainer.ckpt_path",
                ErrorCode.CONFLICT,
                f"{repr(path) if is_set else 'is unset, and'} is not below spec.storage.checkpoints.url, where the "
                f"job's checkpoints are; use {url.rstrip('/')}/<directory>",
            )
        return
    if not facts.runs_upstream and _is_stored(path):
        yield in_config(
            "trainer.ckpt_path",
            ErrorCode.CONFLICT,
            f"{path!r} is in an object store, and spec.storage.checkpoints names a volume; write its url there, and "
            "neither claimTemplate nor claimName",
        )
        return
    mounts = [facts.spec.storage.checkpoints.mount_path]
    yield from _not_mounted(facts, "trainer.ckpt_path", path, mounts, is_set=is_set)


def resume_path_is_on_a_volume(facts: Facts) -> Iterator[FieldError]:
    """With resume_mode from_path, resume_path is on a volume or in an object store. Ours (2.8)."""
    mode, path = facts.trainer.resume_mode, facts.trainer.resume_path
    if mode != "from_path" or path is None or (not facts.runs_upstream and _is_stored(path)):
        return
    if facts.runs_upstream and path.startswith(_OBJECT_STORES):
        yield in_config(
            "trainer.resume_path",
            ErrorCode.CONFLICT,
            f"{path!r} loses a slash in SkyRL 0.1, which then finds no checkpoint; set trainer.ckpt_path to the "
            "directory above it and resume_mode to latest, or use a path on a volume",
        )
        return
    yield from _not_mounted(facts, "trainer.resume_path", path, mount_paths(facts.spec.storage))


def _is_stored(path: str) -> bool:
    """Whether the builtin trainer takes it for a directory in an object store."""
    return _STORE_URL.fullmatch(path) is not None


def datasets_are_on_volumes(facts: Facts) -> Iterator[FieldError]:
    """Files of prompts are on a volume, or names of datasets on the Hub; upstream's trainer also takes URLs. Ours."""
    for field, path in _data_files(facts):
        if not _is_local(path) and (facts.runs_upstream or "://" not in path):
            continue
        is_set = field.split("[")[0].removeprefix("data.") in facts.config.data.model_fields_set
        yield from _not_mounted(facts, field, path, mount_paths(facts.spec.storage), is_set=is_set)


def datasets_are_of_a_known_kind(facts: Facts) -> Iterator[FieldError]:
    """With the builtin trainer, prompts are files that end in .parquet, .json or .jsonl, or a dataset's name. Ours."""
    if facts.runs_upstream:
        return
    for field, path in _data_files(facts):
        if posixpath.splitext(path)[1] not in _DATA_KINDS and not _HUB_DATASET.fullmatch(path):
            yield in_config(
                field,
                ErrorCode.INVALID,
                f"{path!r} is not named as a file that the builtin trainer reads; let it end in "
                f"{', '.join(_DATA_KINDS[:-1])} or {_DATA_KINDS[-1]}, or name a dataset of the Hub as owner/name or "
                "owner/name:split",
            )


def _data_files(facts: Facts) -> list[tuple[str, str]]:
    """The dotted path and the value of every dataset that the run reads."""
    data, trainer = facts.config.data, facts.trainer
    files = [(f"data.train_data[{index}]", path) for index, path in enumerate(data.train_data)]
    if trainer.eval_interval > 0 or (trainer.eval_before_train and not facts.runs_upstream):
        files += [(f"data.val_data[{index}]", path) for index, path in enumerate(data.val_data)]
    return files


def _is_local(path: str) -> bool:
    """Whether trainers take it for a file, and not for a name on the Hub or a URL."""
    if "://" in path:
        return False
    return path.startswith(("/", "~", ".")) or posixpath.splitext(path)[1].lower() in _DATA_KINDS


def exports_are_on_a_volume(facts: Facts) -> Iterator[FieldError]:
    """Where a run exports or dumps, export_path is on a volume. Ours (2.8)."""
    trainer = facts.trainer
    models = trainer.hf_save_interval > 0
    reason = next(
        (
            words
            for words, used in (
                (f"hf_save_interval is {trainer.hf_save_interval}", models),
                (
                    "update_ref_every_epoch is true",
                    trainer.update_ref_every_epoch and facts.needs_reference and facts.runs_upstream,
                ),
                ("dump_data_batch is true", trainer.dump_data_batch),
                (
                    "dump_eval_results is true",
                    "dump_eval_results" in trainer.model_fields_set
                    and trainer.dump_eval_results
                    and trainer.eval_interval > 0,
                ),
            )
            if used
        ),
        None,
    )
    path, mounts = trainer.export_path, mount_paths(facts.spec.storage)
    if reason is None or any(is_below(path, mount) for mount in mounts):
        return
    if models and facts.runs_upstream and path.startswith(_OBJECT_STORES):
        return
    if not facts.runs_upstream and _is_stored(path):
        return
    yield in_config(
        "trainer.export_path",
        ErrorCode.NOT_MOUNTED,
        f"{told(trainer, 'export_path')}, which is on no volume, and {reason}, so what is written there would be lost "
        f"with its pod; use a path under {' or '.join(dict.fromkeys(mounts))}",
    )


def adapters_are_on_a_volume(facts: Facts) -> Iterator[FieldError]:
    """With LoRA and FSDP in several pods, lora_sync_path is on a volume. Ours (2.8): engines read it in other pods."""
    lora = facts.trainer.policy.model.lora
    if lora.rank == 0 or facts.megatron or facts.in_one_pod:
        return
    mounts = mount_paths(facts.spec.storage)
    if not any(is_below(lora.lora_sync_path, mount) for mount in mounts):
        yield in_config(
            "trainer.policy.model.lora.lora_sync_path",
            ErrorCode.NOT_MOUNTED,
            f"{told(lora, 'lora_sync_path')}, which is on no volume, and engines in other pods read the adapters there "
            f"(lora.rank is {lora.rank}); use a path under {' or '.join(dict.fromkeys(mounts))}",
        )


def logs_are_on_a_volume(facts: Facts) -> Iterator[FieldError]:
    """A log_path of one's own is on a volume. Ours (2.8): ranks and engines write there, each in its own pod."""
    path = facts.trainer.log_path
    if path == _DEFAULT_LOG_PATH or facts.variable(_LOGS_TO_STDOUT).lower() in ("1", "true", "yes"):
        return
    mounts = mount_paths(facts.spec.storage)
    if not any(is_below(path, mount) for mount in mounts):
        yield in_config(
            "trainer.log_path",
            ErrorCode.NOT_MOUNTED,
            f"{written(path)} is on no volume, so the logs of ranks and engines would be lost with their pods; use a "
            f"path under {' or '.join(dict.fromkeys(mounts))}, or remove it and set {_LOGS_TO_STDOUT} to '1' in "
            "spec.runtime.env",
        )


RULES: tuple[Rule, ...] = (
    checkpoints_are_on_their_volume,
    resume_path_is_on_a_volume,
    datasets_are_on_volumes,
    datasets_are_of_a_known_kind,
    exports_are_on_a_volume,
    logs_are_on_a_volume,
)
SKYRL_RULES: tuple[Rule, ...] = (adapters_are_on_a_volume,)
