"""What any number of ranks saved, any other number goes on from: policy, adapters, critic, moments, schedules, numbers.

Every run is real ranks over gloo, sharded by FSDP2; a run is written by one set of ranks and read by another.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.fsdp.state import RankState, Trained

Saved = dict[str, Any]


class Adapted(nn.Module):
    """A frozen layer with a trained adapter of rank 2 beside it, and one layer that is trained whole."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(5, 7).requires_grad_(False)
        self.down = nn.Linear(5, 2, bias=False)
        self.up = nn.Linear(2, 7, bias=False)
        self.head = nn.Linear(7, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.base(inputs) + self.up(self.down(inputs)))
        result: Tensor = self.head(hidden)
        return result


def make(name: str, outputs: int, seed: int) -> Trained:
    torch.manual_seed(seed)
    model = Adapted(outputs)
    for parameter in model.base.parameters():
        nn.init.constant_(parameter, 0.1)  # what is frozen comes from the model's own files
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model, mesh=mesh)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1 if name == "policy" else 0.2)
    return Trained(model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)))


def make_all(names: list[str], seed: int) -> dict[str, Trained]:
    outputs = {"policy": 3, "critic": 1}
    return {name: make(name, outputs[name], seed + number) for number, name in enumerate(names)}


def step(trained: Trained, seed: int) -> None:
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    trained.model(inputs).square().sum().backward()
    trained.optimizer.step()
    trained.scheduler.step()
    trained.optimizer.zero_grad()


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def everything(models: dict[str, Trained]) -> Saved:
    """All that a run goes on from, whatever its sharding."""
    return {
        name: {
            "parameters": {
                key: whole(parameter) for key, parameter in trained.model.named_parameters() if parameter.requires_grad
            },
            "moments": [
                {key: whole(value) for key, value in trained.optimizer.state[parameter].items()}
                for parameter in trained.optimizer.param_groups[0]["params"]
            ],
            "rate": trained.optimizer.param_groups[0]["lr"],
            "steps": trained.scheduler.last_epoch,
        }
        for name, trained in models.items()
    }


def write(rank: int, world_size: int, directory: Path) -> None:
    """Two steps, a save, a third step while it is written; what was there at the save, and all this rank's files."""
    models = make_all(["policy", "critic"], seed=1)
    state = RankState(models)
    for number in range(2):
        for trained in models.values():
            step(trained, number)
    torch.manual_seed(100 + rank)
    before = everything(models)
    state.save(str(directory / f"by_{world_size}"))
    next_number = torch.rand(3)
    for trained in models.values():
        step(trained, 2)
    files = state.written()
    state.save(str(directory / f"again_by_{world_size}"))  # into the memory of the first
    state.written()
    torch.save(
        {"before": before, "after": everything(models), "next": next_number, "files": files},
        directory / f"wrote_{world_size}_{rank}.pt",
    )


def read(rank: int, world_size: int, directory: Path, writers: int) -> None:
    """Models with other numbers in them, and then what `writers` ranks saved; one more step from there."""
    models = make_all(["policy", "critic"], seed=5)
    state = RankState(models)
    torch.manual_seed(7)
    state.load(str(directory / f"by_{writers}"))
    result: Saved = {"next": torch.rand(3), "loaded": everything(models)}
    for trained in models.values():
        step(trained, 2)
    result["after"] = everything(models)
    state.load(str(directory / f"again_by_{writers}"))
    result["again"] = everything(models)
    if world_size == 1:
        result["refused"] = [refusal(make_all(["policy"], seed=1), directory / f"by_{writers}")]
        thawed = make_all(["policy", "critic"], seed=1)
        thawed["policy"].model.base.requires_grad_(True)  # type: ignore[union-attr]  # a module by its attribute
        result["refused"].append(refusal(thawed, directory / f"by_{writers}"))
        result["refused"].append(refusal(thawed, directory / "nowhere"))
    torch.save(result, directory / f"read_{writers}_{world_size}_{rank}.pt")


def refusal(models: dict[str, Trained], directory: Path) -> str:
    try:
        RankState(models).load(str(directory))
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def rank_main(rank: int, world_size: int, directory: Path, writers: int | None) -> None:
    store = directory / f"store_{world_size}_{writers}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    if writers is None:
        write(rank, world_size, directory)
    else:
        read(rank, world_size, directory, writers)
    dist.destroy_process_group()


# (ranks that write, ranks that read)
WAYS = [(1, 2), (2, 1), (2, 4)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every set of ranks wrote and read."""
    directory = tmp_path_factory.mktemp("ranks")
    # One process imports torch and the others are its forks, which takes a tenth of the time.
    multiprocessing.set_forkserver_preload([RankState.__module__, "torch._dynamo"])
    runs = [(writers, None) for writers in sorted({writers for writers, _ in WAYS})]
    for ranks, writers in [*runs, *((readers, writers) for writers, readers in WAYS)]:
        mp.start_processes(rank_main, (ranks, directory, writers), ranks, start_method="forkserver")
    return directory


def result(directory: Path, name: str) -> Saved:
    with torch.serialization.safe_globals([FileRecord]):
        found: Saved = torch.load(directory / f"{name}.pt", weights_only=False)
    return found


def assert_same(one: Saved, other: Saved, **tolerance: float) -> None:
    torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize(("writers", "readers"), WAYS)
def test_other_ranks_go_on_from_the_same_numbers(writers: int, readers: int, directory: Path) -> None:
    wrote = result(directory, f"wrote_{writers}_0")
    for rank in range(readers):
        found = result(directory, f"read_{writers}_{readers}_{rank}")
        assert_same(found["loaded"], wrote["before"])
        assert_same(found["again"], wrote["after"])
        assert_same(found["after"], wrote["after"], rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_that_of_the_moment_though_training_goes_on(directory: Path) -> None:
    wrote = result(directory, "wrote_2_0")
    with pytest.raises(AssertionError):
        assert_same(wrote["before"], wrote["after"])
    assert_same(result(directory, "read_2_4_0")["loaded"], wrote["before"])


def test_every_rank_goes_on_with_its_own_random_numbers(directory: Path) -> None:
    wrote = [result(directory, f"wrote_2_{rank}")["next"] for rank in range(2)]
    read = [result(directory, f"read_2_4_{rank}")["next"] for rank in range(4)]
    assert not torch.equal(wrote[0], wrote[1])
    assert [torch.equal(read[rank], wrote[rank]) for rank in range(2)] == [True, True]
    torch.manual_seed(7)
    begun_with = torch.rand(3)
    assert torch.equal(read[3], begun_with)  # a rank that was not there keeps what it has


def test_what_is_frozen_is_not_saved(directory: Path) -> None:
    sizes = {
        name: record.bytes
        for rank in range(2)
        for name, record in result(directory, f"wrote_2_{rank}")["files"].items()
    }
    assert sizes == {path.name: path.stat().st_size for path in (directory / "by_2").iterdir()}
    index = (directory / "by_2" / "tensors.json").read_text()
    assert "policy.model.down.weight" in index
    assert "critic.optimizer.head.bias.exp_avg" in index
    assert "base" not in index


def test_another_run_s_state_is_refused_with_what_differs(directory: Path) -> None:
    no_critic, thawed, nowhere = result(directory, "read_2_1_0")["refused"]
    assert "it holds critic and policy, and this run trains policy" in no_critic
    assert "policy.model.base.bias is absent there and of shape [7] in this run" in thawed
    assert "progress.json is missing" in nowhere
