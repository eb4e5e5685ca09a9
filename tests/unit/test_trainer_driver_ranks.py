"""A rank with all models, and the group as the loop sees it. Ray's part, which carries calls between processes, is
stood in for by calls in this one: what several ranks compute is in test_trainer_fsdp_policy.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from fsdp_cases import changed, make_batch, make_config, make_model
from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.rank_actor import Rank, free_port
from rltrain_trainer.driver.rank_pools import rank_pools
from rltrain_trainer.driver.ranks import PoolRanks, RankGroup


class Method:
    """A method of an actor, called where it is asked for."""

    def __init__(self, method: Any) -> None:
        self._method = method

    async def remote(self, *arguments: Any) -> Any:
        return self._method(*arguments)


class Actor:
    """A Rank as Ray's handle of it looks."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._rank, name))


@pytest.fixture
def config(tmp_path: Path) -> SkyRLTrainConfig:
    for name in ("regular", "reference"):
        make_model(tied=True).save_pretrained(tmp_path / name)
        words = Tokenizer(WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path / name)
    made = changed(
        make_config(tmp_path, "regular", {"packed": True}),
        algorithm={"use_kl_loss": True, "advantage_estimator": "gae"},
        placement={"colocate_all": True},
        update_ref_every_epoch=True,
    )
    document = made.model_dump(mode="json")
    document["generator"]["inference_engine"]["weight_sync_backend"] = "gloo"
    return SkyRLTrainConfig.model_validate(document)


@pytest.fixture
async def group(config: SkyRLTrainConfig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RankGroup]:
    monkeypatch.setattr(ray, "put", lambda value: value)
    threads = torch.get_num_threads()
    (pool,) = rank_pools(config)
    assert pool.models == ("policy", "reference", "critic")
    rank = Rank(config.model_dump(mode="json"), pool.models)
    rank.join(0, 1, "127.0.0.1", free_port())
    group = RankGroup(config, [PoolRanks(pool, [Actor(rank)])])
    await group.load(5, None)
    yield group
    dist.destroy_process_group()
    torch.set_num_threads(threads)


async def scored(group: RankGroup) -> TrainBatch:
    batch = make_batch(0)
    return replace(
        batch,
        old_logprobs=await group.logprobs(batch),
        reference_logprobs=await group.reference_logprobs(batch),
        values=await group.values(batch),
    )


@pytest.mark.proves("trainer.update_ref_every_epoch", "trainer.critic.model.path")
async def test_all_that_the_loop_asks_for(group: RankGroup, config: SkyRLTrainConfig, tmp_path: Path) -> None:
    batch = await scored(group)
    assert torch.equal(batch.old_logprobs, batch.reference_logprobs)
    for _ in range(2):  # the first one has a learning rate of 0
        assert (await group.update(batch))["policy/skipped_steps"] == 0
        assert (await group.update_critic(batch))["critic/skipped_steps"] == 0
    after = await scored(group)
    assert not torch.equal(after.old_logprobs, batch.old_logprobs)
    assert torch.equal(after.reference_logprobs, batch.reference_logprobs)
    assert not torch.equal(after.values, batch.values)
    await group.refresh_reference()
    refreshed = await scored(group)
    torch.testing.assert_close(refreshed.reference_logprobs, after.old_logprobs, rtol=0, atol=1e-6)

    await group.save(str(tmp_path / "step"))
    assert {name.partition("/")[0] for name in await group.written()} == {"policy", "critic", "reference"}
    await group.update(batch)
    await group.load(5, str(tmp_path / "step"))
    resumed = await scored(group)
    for name in ("old_logprobs", "reference_logprobs", "values"):
        assert torch.equal(getattr(resumed, name), getattr(refreshed, name)), name

    await group.export(str(tmp_path / "export" / "policy"))
    await group.export_critic(str(tmp_path / "export" / "critic"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export" / "policy")
    await group.stage()
    names = [spec.name for bucket in group.buckets for spec in bucket.parameters]
    assert sorted(names) == sorted(name for name, _ in exported.named_parameters())
    assert group.world_size == 1
