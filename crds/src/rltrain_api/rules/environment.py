"""Environment variables of pods: names that may be set, sources, and variables that another field asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rltrain_api.env import refused_in_pods
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import told
from rltrain_api.spec.runtime import EnvVar


def _variables(facts: Facts) -> list[tuple[str, Sequence[EnvVar]]]:
    """(path of the list, its entries): of every pod, and of each initializer."""
    return [
        ("spec.runtime.env", facts.spec.runtime.env),
        *(
            (f"spec.storage.initializers[{index}].env", initializer.env)
            for index, initializer in enumerate(facts.spec.storage.initializers)
        ),
    ]


def variables_differ(facts: Facts) -> Iterator[FieldError]:
    """No list sets a variable twice. Ours: the API server merges entries by name."""
    for path, variables in _variables(facts):
        counts = Counter(variable.name for variable in variables)
        for index, variable in enumerate(variables):
            if counts[variable.name] > 1:
                yield FieldError(
                    f"{path}[{index}].name",
                    ErrorCode.DUPLICATE,
                    f"{variable.name} is set {counts[variable.name]} times; keep one of them",
                )


def variables_may_be_set(facts: Facts) -> Iterator[FieldError]:
    """No variable is set that the operator, KubeRay, Ray or a device plugin sets for each pod or process. Ours."""
    for path, variables in _variables(facts):
        for index, variable in enumerate(variables):
            problem = refused_in_pods(variable.name)
            if problem is not None:
                yield FieldError(f"{path}[{index}].name", ErrorCode.CONFLICT, f"{variable.name} {problem}")


def source_is_one_object(facts: Facts) -> Iterator[FieldError]:
    """An entry of envFrom names a Secret or a ConfigMap. Ours: the API server would refuse the pods."""
    for index, source in enumerate(facts.spec.runtime.env_from):
        if (source.secret_ref is None) == (source.config_map_ref is None):
            number = "neither" if source.secret_ref is None else "both"
            yield FieldError(
                f"spec.runtime.envFrom[{index}]",
                ErrorCode.CONFLICT,
                f"sets {number} of secretRef and configMapRef; set exactly one",
            )


def wandb_has_a_key(facts: Facts) -> Iterator[FieldError]:
    """With logger wandb, pods can have WANDB_API_KEY: from envFrom, or from runtime.env. SkyRL: G4.

    SkyRL asks for it even where WANDB_MODE is offline; the builtin trainer does not, nor where SKYRL_DISABLE_WANDB is 1
    and nobody has set the logger. SkyRL's own rule looks at the environment of the process that starts the run; here
    the job says what its pods get.
    """
    runtime, mode = facts.spec.runtime, facts.variable("WANDB_MODE")
    offline = mode.lower() in ("offline", "disabled", "dryrun")
    if "wandb" not in facts.trainer.loggers or runtime.env_from or facts.variable("WANDB_API_KEY"):
        return
    switched_off = facts.variable("SKYRL_DISABLE_WANDB") == "1" and "logger" not in facts.trainer.model_fields_set
    if not facts.runs_upstream and (offline or switched_off):
        return
    remedy = "add a Secret that has that key to spec.runtime.envFrom, or set logger to console"
    if offline:
        remedy = f"SkyRL asks for it with WANDB_MODE {mode} too, where any text will do"
    loss = "SkyRL does not start" if facts.runs_upstream else "wandb takes nothing"
    yield in_config(
        "trainer.logger",
        ErrorCode.CONFLICT,
        f"{told(facts.trainer, 'logger')}, and nothing gives pods the variable WANDB_API_KEY, without which {loss}; "
        f"{remedy}",
    )


RULES: tuple[Rule, ...] = (variables_differ, variables_may_be_set, source_is_one_object, wandb_has_a_key)
SKYRL_RULES: tuple[Rule, ...] = ()
