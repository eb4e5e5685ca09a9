"""An environment of one's own: rewards a response for every time it uses the letter that the row names."""

from __future__ import annotations

from typing import Any

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput


class Letters(BaseTextEnv):
    """One turn; the reward is the letter's share of the response, from 0 to 1."""

    def __init__(self, env_config: Any, extras: dict[str, Any]) -> None:
        super().__init__()
        self.letter = str(extras["letter"])
        self.share = 0.0

    def step(self, action: str) -> Any:
        """Score the response; there is no second turn."""
        self.share = action.count(self.letter) / max(len(action), 1)
        return BaseTextEnvStepOutput(observations=[], reward=self.share, done=True, metadata={})

    def get_metrics(self) -> dict[str, Any]:
        """Shown as environment/share."""
        return {"share": self.share}


skyrl_gym.register("letters", Letters)
