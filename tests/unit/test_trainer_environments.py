"""Every environment that skyrl-gym registers plays an episode here, and so does the judge that SkyRL has settings for.

The services that some of them need are stand-ins on this machine: a database file, a retriever and a judging model that
answer over HTTP what the test gives them. The model is a script of responses.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from skyrl_gym.envs.registration import registry
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.engines.contract import FinishReason, GenerateRequest, GenerateResult
from rltrain_trainer.rollout import judge
from rltrain_trainer.rollout.agent_loop import RolloutGenerator
from rltrain_trainer.rollout.environments import EnvironmentFailedError
from rltrain_trainer.rollout.trajectory import Trajectory

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return loaded


@dataclass
class Script:
    """A model that says these things, one after the other."""

    tokenizer: PreTrainedTokenizerBase
    texts: list[str]

    async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
        ids = tuple(self.tokenizer.encode(f"{self.texts.pop(0)}{END}"))
        return (GenerateResult(ids, (-1.0,) * len(ids), FinishReason.STOP, ()),)


async def play(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], env_class: str, extras: dict[str, Any], **gym: Any
) -> Trajectory:
    """One episode in which the model says `texts`, with these settings of environment.skyrl_gym."""
    document = {
        "trainer": {"max_prompt_length": 2000},
        "generator": {"max_turns": 8, "max_input_length": 4000},
        "environment": {"skyrl_gym": gym},
    }
    config = resolve(SkyRLTrainConfig.model_validate(document))
    generator = RolloutGenerator(Script(tokenizer, list(texts)), tokenizer, config, environment_seconds=60)
    row = PromptRow("3", ({"role": "user", "content": "go"},), env_class, extras)
    sampling = config.generator.sampling_params
    (trajectory,) = await generator.generate([row], sampling=sampling, samples_per_prompt=1, seed=1)
    return trajectory


def rule(answer: Any) -> dict[str, Any]:
    return {"reward_spec": {"method": "rule", "ground_truth": answer}}


@dataclass(frozen=True)
class Case:
    texts: list[str]
    extras: dict[str, Any]
    reward: float


SQUARES = json.dumps([{"input": "3\n", "output": "9\n", "testtype": "stdin"}])
ALONE = {
    "aime": Case(["Answer: 42"], {"reward_model": {"ground_truth": "42"}}, 1.0),
    "gsm8k": Case(["so #### 4"], rule("4"), 1.0),
    "gsm8k_multi_turn": Case(["#### 3", "#### 4"], {**rule("4"), "extra_info": {}}, 1.0 + 0.2 / 8),
    "lcb": Case(["```python\nprint(int(input()) ** 2)\n```"], rule(SQUARES), 1.0),
    "searchcode": Case(["<tool><python>print(6 * 7)</python></tool>", "<solution>#### 42</solution>"], rule("42"), 1.0),
}
SERVED = {"text2sql", "search", judge.NAME}


@pytest.mark.proves("environment.env_class")
@pytest.mark.parametrize("env_class", ALONE)
async def test_an_environment_that_needs_nothing_else(env_class: str, tokenizer: PreTrainedTokenizerBase) -> None:
    case = ALONE[env_class]
    trajectory = await play(tokenizer, case.texts, env_class, case.extras)
    assert trajectory.reward == pytest.approx(case.reward)
    assert len(trajectory.turn_lengths) == len(case.texts)


def test_there_is_a_test_of_every_registered_environment() -> None:
    own = {name for name, found in registry.items() if str(found.entry_point).startswith("skyrl_gym.")}
    assert own | {judge.NAME} == ALONE.keys() | SERVED
    assert registry[judge.NAME].entry_point is judge.JudgeEnvironment


@pytest.mark.proves("environment.skyrl_gym.text2sql.db_path")
async def test_text2sql_queries_the_databases_below_its_path(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    databases = tmp_path / "spider/database/shop"
    databases.mkdir(parents=True)
    with sqlite3.connect(databases / "shop.sqlite") as database:
        database.execute("create table sales (item text, price int)")
        database.executemany("insert into sales values (?, ?)", [("pen", 2), ("ink", 5)])
    extras = {**rule("select sum(price) from sales"), "db_id": "shop", "data": "spider"}
    texts = [
        "<think>look</think><sql>select item from sales where price = 5</sql>",
        "<think>sum</think><solution>select 7</solution>",
    ]
    trajectory = await play(tokenizer, texts, "text2sql", extras, text2sql={"db_path": str(tmp_path)})
    assert trajectory.reward == 1.0
    assert "ink" in tokenizer.decode(trajectory.response_ids)  # what the query found, in the conversation
    with pytest.raises(EnvironmentFailedError, match=r"environment text2sql of row 3: init raised FileNotFoundError"):
        await play(tokenizer, texts, "text2sql", extras, text2sql={"db_path": str(tmp_path / "elsewhere")})


@dataclass
class Service:
    """A stand-in over HTTP: answers every POST by a function of its body; keeps what it was asked."""

    answer: Callable[[dict[str, Any]], dict[str, Any]]
    delay: threading.Event | None = None  # requests wait for it, where there is one
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serving(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.bodies.append(body)
            service.headers.append(dict(self.headers))
            service.paths.append(self.path)
            if service.delay is not None:
                service.delay.wait(20)
            content = json.dumps(service.answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def documents(body: dict[str, Any]) -> dict[str, Any]:
    found = [{"document": {"contents": f"fact {index} about {body['query']}"}} for index in range(body["topk"])]
    return {"result": [found]}


@pytest.mark.proves(
    "environment.skyrl_gym.search.search_url",
    "environment.skyrl_gym.search.topk",
    "environment.skyrl_gym.search.log_requests",
)
async def test_search_asks_the_retriever_that_is_named(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(documents)
    texts = ["<search>rivers</search>", "<answer>Rhine</answer>"]
    with serving(service) as url, caplog.at_level("INFO"):
        for log_requests in (False, True):
            settings = {"search_url": f"{url}/retrieve", "topk": 2, "log_requests": log_requests}
            trajectory = await play(tokenizer, texts, "search", rule({"target": ["Rhine"]}), search=settings)
            assert any("Calling search API" in line for line in caplog.messages) == log_requests
    assert trajectory.reward == 1.0
    assert service.paths[0] == "/retrieve"
    assert (service.bodies[0]["query"], service.bodies[0]["topk"]) == ("rivers", 2)
    told = tokenizer.decode(trajectory.response_ids)
    assert "fact 1 about rivers" in told
    assert "fact 2" not in told


@pytest.mark.proves("environment.skyrl_gym.search.timeout")
async def test_search_waits_no_longer_than_its_timeout(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrl_gym.tools.search.MAX_RETRIES", 1)
    never = threading.Event()
    texts = ["<search>rivers</search>", "<answer>Rhine</answer>"]
    with serving(Service(documents, delay=never)) as url:
        settings = {"search_url": f"{url}/retrieve", "timeout": 1}
        trajectory = await play(tokenizer, texts, "search", rule({"target": ["Rhine"]}), search=settings)
        never.set()
    assert "Timeout Error" in tokenizer.decode(trajectory.response_ids)
    assert trajectory.reward == 1.0


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    right = "Answer:\n12" in body["messages"][-1]["content"]
    return {"choices": [{"message": {"content": f"Let me see.\nScore: {int(right)}"}}]}


@pytest.mark.proves("environment.skyrl_gym.llm_as_a_judge.model", "environment.skyrl_gym.llm_as_a_judge.base_url")
async def test_the_judge_is_asked_for_a_verdict(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(verdict)
    monkeypatch.setenv(judge.KEY_VARIABLE, "key-of-a-test")
    with serving(service) as url:
        settings = {"model": "strict-1", "base_url": f"{url}/v1/"}
        rewards = [
            (await play(tokenizer, [said], judge.NAME, rule("3 * 4 = 12"), llm_as_a_judge=settings)).reward
            for said in ("12", "13")
        ]
    assert rewards == [1.0, 0.0]
    assert service.paths == ["/v1/chat/completions"] * 2
    assert {body["model"] for body in service.bodies} == {"strict-1"}
    assert "3 * 4 = 12" in service.bodies[0]["messages"][-1]["content"]
    assert service.headers[0]["Authorization"] == "Bearer key-of-a-test"


async def test_a_judge_without_a_verdict_and_one_without_a_key(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "RETRY_SECONDS", (0.0, 0.0))
    service = Service(lambda _: {"error": "busy"})
    monkeypatch.setenv(judge.KEY_VARIABLE, "key-of-a-test")
    no_verdict = pytest.raises(
        EnvironmentFailedError, match=r"step raised RuntimeError: the judge at .* gave no verdict"
    )
    with serving(service) as url, no_verdict:
        await play(tokenizer, ["12"], judge.NAME, rule("12"), llm_as_a_judge={"base_url": url})
    assert len(service.bodies) == 3
    monkeypatch.delenv(judge.KEY_VARIABLE)
    with pytest.raises(EnvironmentFailedError, match="OPENAI_API_KEY is not set; give it to the job"):
        await play(tokenizer, ["12"], judge.NAME, rule("12"))
