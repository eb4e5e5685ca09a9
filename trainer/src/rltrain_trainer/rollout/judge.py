"""The environment `llm_as_a_judge`: another model, behind OpenAI's protocol, says whether an answer is right.

Its settings are `environment.skyrl_gym.llm_as_a_judge`; the key comes from OPENAI_API_KEY. A row needs
`reward_spec.ground_truth`, the solution that answers are compared with. It must not know the other environments.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from skyrl_gym.envs.base_text_env import (  # type: ignore[import-untyped]  # ships no types
    BaseTextEnv,
    BaseTextEnvStepOutput,
)

from rltrain_api.config import GSM8kLLMJudgeEnvConfig

NAME = "llm_as_a_judge"
DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
REQUEST_SECONDS = 60.0
RETRY_SECONDS = (1.0, 4.0)  # a judge that is busy or restarts gets three chances

INSTRUCTION = (
    "You grade answers to mathematical problems. You are given a reference solution and an answer. The answer is right "
    "when its reasoning is sound and its final result is that of the reference, however it is written. Think as long "
    "as you need, then end with one line that reads `Score: 1` for a right answer, or `Score: 0` for any other."
)
_SCORE = re.compile(r"Score:\s*([01])\b")


class JudgeEnvironment(BaseTextEnv):  # type: ignore[misc]  # ships no types
    """One turn; 1 for an answer that the judge calls right, 0 for any other."""

    def __init__(self, env_config: GSM8kLLMJudgeEnvConfig, extras: Mapping[str, Any]) -> None:
        super().__init__()
        solution = (extras.get("reward_spec") or {}).get("ground_truth")
        if solution is None:
            raise ValueError("the row has no reward_spec.ground_truth to compare answers with")
        if not os.environ.get(KEY_VARIABLE):
            raise ValueError(f"{KEY_VARIABLE} is not set; give it to the job by spec.runtime.envFrom")
        self._solution = str(solution)
        self._model = env_config.model
        self._url = f"{(env_config.base_url or DEFAULT_URL).rstrip('/')}/chat/completions"

    def step(self, action: str) -> Any:
        """The judge's score of `action`."""
        verdict = self._ask(f"Reference solution:\n{self._solution}\n\nAnswer:\n{action}")
        scores = _SCORE.findall(verdict)
        reward = float(scores[-1]) if scores else 0.0
        return BaseTextEnvStepOutput(observations=[], reward=reward, done=True, metadata={"verdict": verdict})

    def _ask(self, question: str) -> str:
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}]
        request = urllib.request.Request(  # noqa: S310 - the address is the job's own setting
            self._url,
            data=json.dumps({"model": self._model, "messages": messages, "temperature": 0}).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {os.environ[KEY_VARIABLE]}"},
        )
        for pause in (*RETRY_SECONDS, None):
            try:
                with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310 - as above
                    return str(json.load(response)["choices"][0]["message"]["content"])
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                if pause is None:
                    what = f"{type(error).__name__}: {error}"
                    raise RuntimeError(f"the judge at {self._url} gave no verdict ({what})") from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")
