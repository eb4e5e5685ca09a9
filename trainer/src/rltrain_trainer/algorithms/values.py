"""The critic's loss per token; `rltrain_trainer.algorithms.reductions` makes one number of it."""

from __future__ import annotations

import torch
from torch import Tensor

from rltrain_trainer.algorithms.masking import at_least_float32


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error with clipping, and where the clip was what counted; both [batch, tokens].

    values: by the critic being trained; old_values: by the critic before the update; returns: what it should have
    said. All [batch, tokens]. With V' = V_old + clamp(V - V_old, ±value_clip) the loss of a token is
    max((V' - R)², (V - R)²) / 2, as in the PPO of "Implementation matters in deep RL" (arXiv 2005.12729, section 3) and
    of SkyRL. The second result is 1 where (V' - R)² was the greater, else 0.
    """
    values, old_values, returns = (at_least_float32(tensor) for tensor in (values, old_values, returns))
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    free, clipped = (values - returns).square(), (near - returns).square()
    return torch.maximum(clipped, free) / 2, (clipped > free).to(free.dtype)
