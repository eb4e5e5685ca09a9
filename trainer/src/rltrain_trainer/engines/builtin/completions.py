"""OpenAI-compatible text routes of the builtin engine: /v1/completions and /v1/chat/completions, without streaming.

For people, evaluation tools and environments that talk to the policy; training uses token ids. It must not know how
tokens are sampled.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from rltrain_trainer.engines.builtin.protocol import TAKEN, parse_sampling, response_text, usage
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.builtin.server import EngineServer, json_object, refuse_fields


class CompletionRoutes:
    """The two routes over one engine server."""

    def __init__(self, server: EngineServer) -> None:
        self._server = server

    def routes(self) -> list[web.RouteDef]:
        """To be added to the server's application."""
        return [web.post("/v1/completions", self.complete), web.post("/v1/chat/completions", self.chat)]

    async def complete(self, request: web.Request) -> web.Response:
        """Continue a text, or a list of token ids."""
        body = await json_object(request)
        prompt = body.get("prompt")
        token_ids = self._server.model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        sequences = await self._sample(body, token_ids)
        choices = [
            {**self._choice(body, index, sequence), "text": response_text(self._server.model, sequence)}
            for index, sequence in enumerate(sequences)
        ]
        return self._answer("text_completion", choices, sequences)

    async def chat(self, request: web.Request) -> web.Response:
        """Answer a conversation."""
        body = await json_object(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValueError("messages must be a list of messages with role and content")
        token_ids = self._server.model.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **(body.get("chat_template_kwargs") or {}),
        )
        if "max_completion_tokens" in body:
            body["max_tokens"] = body["max_completion_tokens"]
        sequences = await self._sample(body, token_ids)
        choices = [
            {
                **self._choice(body, index, sequence),
                "message": {"role": "assistant", "content": response_text(self._server.model, sequence)},
            }
            for index, sequence in enumerate(sequences)
        ]
        return self._answer("chat.completion", choices, sequences)

    async def _sample(self, body: Mapping[str, Any], token_ids: Any) -> list[Sequence]:
        refuse_fields(dict(body), {"stream": False, "echo": False, "suffix": "", "best_of": 1})
        model = self._server.model
        if body.get("model") not in (None, model.name):
            raise ValueError(f"model {body['model']!r} is not served here; this engine serves {model.name!r}")
        sampling, samples = parse_sampling({key: body[key] for key in TAKEN if key in body})
        return await self._server.sample(str(uuid.uuid4()), token_ids, sampling, samples)

    def _choice(self, body: Mapping[str, Any], index: int, sequence: Sequence) -> dict[str, Any]:
        assert sequence.finish_reason is not None, "only finished sequences are answered with"
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": sequence.finish_reason.value,
            "stop_reason": sequence.stop_reason,
        }
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": sequence.prompt, "token_ids": sequence.response}
        if body.get("return_weight_versions"):
            choice["weight_versions"] = sequence.spans()
        if body.get("logprobs") not in (None, False):
            choice["logprobs"] = {"token_logprobs": sequence.logprobs}
        return choice

    def _answer(self, kind: str, choices: list[dict[str, Any]], sequences: list[Sequence]) -> web.Response:
        return web.json_response(
            {
                "id": str(uuid.uuid4()),
                "object": kind,
                "created": int(time.time()),
                "model": self._server.model.name,
                "choices": choices,
                "usage": usage(sequences),
            }
        )
