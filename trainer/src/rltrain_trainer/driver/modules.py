"""The user's own modules (`spec.runtime.modules`): imported by the driver and every rank before anything is built.

Importing is all that happens: a module registers what it brings (`skyrl_gym.register`,
`rltrain_trainer.algorithms.register_advantage_estimator`, `register_policy_loss`). It must not know what that is.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)


def import_modules(names: Sequence[str]) -> None:
    """Import them in order. Raises ValueError, naming the module, when one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module may raise anything while it is imported
            raise ValueError(
                f"spec.runtime.modules: {name} cannot be imported ({type(error).__name__}: {error}); it must be in the "
                "image, or below a directory that spec.runtime.env names in PYTHONPATH"
            ) from error
        log.info("imported %s", name)
