"""The whole recipe: draw the problems, build tokenizer and model, warm the model up, and leave complete files.

An output is complete when its marker is there and carries the digest of what it was made from; the marker is written
last and everything else is moved into place whole, so a run that was killed is simply run again. It must not know what
reads the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rltrain_trainer.quickstart.dataset import write_dataset
from rltrain_trainer.quickstart.demonstrations import Demonstration, demonstrate
from rltrain_trainer.quickstart.model import MAX_POSITIONS, build_model
from rltrain_trainer.quickstart.problems import Problem, draw_splits, every_word
from rltrain_trainer.quickstart.tokenizer import build_tokenizer
from rltrain_trainer.quickstart.warmup import WarmUpSettings, measure_accuracy, warm_up

MARKER = "quickstart.json"
WORKSPACE = ".unfinished"
TRAIN_FILE = "train.parquet"
VALIDATION_FILE = "validation.parquet"
MODEL_DIRECTORY = "model"
START_SAMPLES = 4  # answers per validation problem when the start is measured


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, apart from the machine."""

    seed: int = 1
    train_rows: int = 2048
    validation_rows: int = 256
    held_out_rows: int = 256  # problems that only the warm-up's stopping rule sees
    demonstration_rounds: int = 8  # demonstrations of each training problem
    worked_share: float = 0.35  # of the demonstrations; the others guess
    hidden_size: int = 64
    layers: int = 2
    warm_up: WarmUpSettings = field(default_factory=WarmUpSettings)


@dataclass(frozen=True)
class Material:
    """What is drawn from the seed."""

    train: list[Problem]
    validation: list[Problem]
    held_out: list[Problem]
    shown: list[Demonstration]


def draw_material(recipe: Recipe) -> Material:
    """The disjoint splits, and the demonstrations of the training problems."""
    splits = draw_splits(
        recipe.seed,
        {"train": recipe.train_rows, "validation": recipe.validation_rows, "held_out": recipe.held_out_rows},
    )
    shown = demonstrate(
        splits["train"], seed=recipe.seed, rounds=recipe.demonstration_rounds, worked_share=recipe.worked_share
    )
    return Material(splits["train"], splits["validation"], splits["held_out"], shown)


def recipe_digest(recipe: Recipe, material: Material) -> str:
    """SHA-256 over the recipe and the very text that was drawn, so that a changed template is a changed recipe."""
    content = json.dumps({"recipe": asdict(recipe), "material": asdict(material)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def is_complete(output: Path, digest: str) -> bool:
    """Whether `output` holds the whole result of the recipe with this digest."""
    marker = output / MARKER
    if not marker.is_file():
        return False
    recorded: dict[str, object] = json.loads(marker.read_text())
    return recorded["digest"] == digest


def prepare(output: Path, recipe: Recipe, report: Callable[[str], None]) -> bool:
    """Bring `output` to the recipe's result: the two datasets, and `model/` with tokenizer and warmed-up weights.

    Returns False when it was already there and nothing was touched. An output of another recipe is replaced.
    ValueError when the warm-up does not get where it should, OSError when the files cannot be written.
    """
    material = draw_material(recipe)
    digest = recipe_digest(recipe, material)
    if is_complete(output, digest):
        report(f"{output} is complete and stays as it is (digest {digest[:12]})")
        return False
    (output / MARKER).unlink(missing_ok=True)
    workspace = output / WORKSPACE
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    write_dataset(material.train, "train", workspace / TRAIN_FILE)
    write_dataset(material.validation, "validation", workspace / VALIDATION_FILE)
    report(f"drew {len(material.train)} training and {len(material.validation)} validation problems")
    start = _make_model(workspace / MODEL_DIRECTORY, recipe, material, report)
    _seal_files(workspace)
    for name in (TRAIN_FILE, VALIDATION_FILE, MODEL_DIRECTORY):
        _move_into_place(workspace / name, output / name)
    workspace.rmdir()
    _write_marker(output, {"digest": digest, "recipe": asdict(recipe), "start_accuracy": start})
    report(f"{output} is complete: the model starts at {start:.1%} on the validation problems")
    return True


def _make_model(directory: Path, recipe: Recipe, material: Material, report: Callable[[str], None]) -> float:
    """Build, warm up and save tokenizer and model; returns pass@1 on the validation problems."""
    tokenizer = build_tokenizer(every_word(), MAX_POSITIONS)
    model = build_model(tokenizer, recipe.seed, recipe.hidden_size, recipe.layers)
    report(f"built a Qwen2 of {model.num_parameters():,} parameters with {len(tokenizer)} tokens")
    warm_up(
        model,
        tokenizer,
        shown=material.shown,
        held_out=material.held_out,
        seed=recipe.seed,
        settings=recipe.warm_up,
        report=report,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return measure_accuracy(
        model,
        tokenizer,
        material.validation,
        seed=recipe.seed,
        samples=START_SAMPLES,
        max_new_tokens=recipe.warm_up.max_new_tokens,
    )


def _seal_files(directory: Path) -> None:
    """Make every file below `directory` readable to all and bring it to the disk before the marker speaks for it.

    The trainer's pods may run as another user, and safetensors leaves its files to the owner alone.
    """
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _move_into_place(source: Path, target: Path) -> None:
    """Put a finished file or directory where it belongs, in the place of an older one."""
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def _write_marker(output: Path, content: dict[str, object]) -> None:
    """Write the marker so that it is there whole or not at all, after everything it vouches for."""
    unfinished = output / f"{MARKER}.unfinished"
    with unfinished.open("w") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(output / MARKER)
