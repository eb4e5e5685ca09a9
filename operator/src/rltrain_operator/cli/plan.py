"""The verb `plan`: what a job needs and what the operator would make of it, without a cluster.

Exit codes: 0 the plan is shown, 1 a job is invalid (its errors are shown), 2 an input cannot be used.
"""

from __future__ import annotations

import argparse
import re
from decimal import Decimal
from pathlib import Path

from rltrain_api.quantity import parse_quantity
from rltrain_api.reading import UnusableInput
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.batches import plan_batches, plan_steps
from rltrain_api.sizing.estimate import ModelSize, estimate_engine, estimate_trainers
from rltrain_api.sizing.pools import plan_pools
from rltrain_api.spec.base import QUANTITY_PATTERN
from rltrain_operator.cli import plan_lines
from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_OK, CommandError
from rltrain_operator.cli.job_files import JudgedJob, read_job_file
from rltrain_operator.cli.model_files import count_rows, parse_count, read_model_shape, shape_beside
from rltrain_operator.cli.plan_objects import planned_objects, yaml_lines
from rltrain_operator.cli.screen import Screen

MIN_GPU_MEMORY, MAX_GPU_MEMORY = 2**30, 2**50


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `plan`."""
    parser.add_argument("file", metavar="FILE", help="YAML or JSON with one or more jobs; - is standard input")
    parser.add_argument(
        "-o", "--output", choices=["text", "yaml"], default="text", help="for people (default), or the objects as YAML"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model-config", type=Path, metavar="PATH", help="the policy's config.json, or a directory that holds it"
    )
    model.add_argument("--parameters", type=_count, metavar="N", help="the policy's size where it is all you know: 7B")
    parser.add_argument("--rows", type=_rows, metavar="N", help="training prompts, for the number of steps")
    parser.add_argument("--gpu-memory", type=_gpu_memory, metavar="SIZE", help="memory of each GPU, such as 80Gi")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show the plan of every job in the file; an invalid one shows its errors."""
    try:
        jobs = read_job_file(arguments.file).jobs
    except UnusableInput as error:
        raise CommandError(str(error)) from error
    as_yaml = arguments.output == "yaml"
    for index, judged in enumerate(jobs):
        if index:
            screen.line("---" if as_yaml else "")
        for line in _error_lines(judged, as_yaml) if judged.errors else _plan(judged, arguments):
            screen.line(line)
    return EXIT_FAILED if any(judged.errors for judged in jobs) else EXIT_OK


def _error_lines(judged: JudgedJob, as_yaml: bool) -> list[str]:
    """What keeps a job from being planned; among YAML as comments, so that nothing takes it for an object."""
    lines = [f"{judged.name} is invalid, so there is no plan of it:", *judged.error_lines()]
    return [f"# {line}" for line in lines] if as_yaml else lines


def _plan(judged: JudgedJob, arguments: argparse.Namespace) -> list[str]:
    job = judged.job
    assert job is not None, "a job without errors has been parsed"
    # What the operator will not carry out, it makes no object for.
    objects = [] if judged.notes else planned_objects(job)
    if arguments.output == "yaml":
        notes = [f"# {line}" for line in judged.note_lines()]
        return [*notes, *yaml_lines(objects)]
    facts = Facts(job)
    rows = arguments.rows or count_rows(facts.config.data.train_data)
    lines = [f"{judged.name}: the plan ({judged.document.place()})", *judged.note_lines(), ""]
    lines += [*plan_lines.pool_lines(plan_pools(facts)), ""]
    lines += [*plan_lines.batch_lines(plan_batches(facts), None if rows is None else plan_steps(facts, rows)), ""]
    lines += _memory_lines(facts, _policy_size(facts, arguments), arguments.gpu_memory)
    return [*lines, *plan_lines.object_lines(objects)]


def _policy_size(facts: Facts, arguments: argparse.Namespace) -> ModelSize | None:
    if arguments.model_config is not None:
        return read_model_shape(arguments.model_config)
    size: int | None = arguments.parameters
    return size or shape_beside(facts.trainer.policy.model.path)


def _memory_lines(facts: Facts, policy: ModelSize | None, gpu_memory: int | None) -> list[str]:
    lines = [*plan_lines.model_lines(policy), ""]
    if policy is None:
        return lines
    critic_path, critic = facts.trainer.critic.model.path, None
    if facts.has_critic:
        # Critics are nearly always as large as their policies.
        critic = shape_beside(critic_path) or policy
    trainers = estimate_trainers(facts, policy, critic)
    for memory in trainers:
        lines += [*plan_lines.trainer_lines(memory, gpu_memory), ""]
    if not trainers:
        lines += ["Memory of a GPU that trains", "  not estimated for strategy megatron", ""]
    if not isinstance(policy, int) and facts.engine.run_engines_locally:
        lines += [*plan_lines.engine_lines(facts, estimate_engine(facts, policy, gpu_memory), gpu_memory), ""]
    return lines


def _count(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rows(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal() or not 0 < int(digits) < 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(digits)


def _gpu_memory(text: str) -> int:
    size = parse_quantity(text) if re.fullmatch(QUANTITY_PATTERN, text) else Decimal(0)
    if not MIN_GPU_MEMORY <= size <= MAX_GPU_MEMORY:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a GPU's memory, such as 80Gi")
    return int(size)
