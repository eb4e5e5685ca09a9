"""One trainer rank in a Ray actor: its part of the models of its pool, and the weight sync's sender on rank 0.

Calls run one after the other on one thread, so that all ranks come to their collectives in the same order.
"""

from __future__ import annotations

import collections
import logging
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.modules import import_modules
from rltrain_trainer.driver.rank_pools import CRITIC, POLICY, REFERENCE
from rltrain_trainer.driver.variables import read_variables
from rltrain_trainer.fsdp.critic import CriticRank
from rltrain_trainer.fsdp.minibatches import reference_is_the_policy
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.fsdp.reference import ReferenceRank
from rltrain_trainer.tracking.logs import keep_log, keeps_all_logs, log_directory
from rltrain_trainer.weight_sync.buckets import Bucket
from rltrain_trainer.weight_sync.sender import WeightSender


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def node_address() -> str:
    """The address of this node in the Ray cluster."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    return address


class Rank:
    """A rank of the models named in `models` (`rank_pools`)."""

    def __init__(self, config: dict[str, Any], models: Sequence[str], modules: Sequence[str] = ()) -> None:
        import_modules(modules)
        self._config = SkyRLTrainConfig.model_validate(config)
        self._wanted = tuple(models)
        self._policy: PolicyRank | None = None
        self._reference: ReferenceRank | None = None
        self._critic: CriticRank | None = None
        self._sender: WeightSender | None = None

    def place(self) -> tuple[str, str, list[int]]:
        """(node id, address, accelerator ids): what ranks are ordered by."""
        context = ray.get_runtime_context()
        accelerators = [int(index) for index in context.get_accelerator_ids().get("GPU", [])]
        return context.get_node_id(), node_address(), accelerators

    def free_port(self) -> int:
        """A port for the rendezvous of the ranks, on this rank's node."""
        return free_port()

    def join(self, rank: int, world_size: int, address: str, port: int) -> None:
        """Form the default process group with the other ranks."""
        os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
        if torch.cuda.is_available():
            torch.cuda.set_device(0)  # Ray shows each rank its own GPU only
            backend = "cpu:gloo,cuda:nccl"
        else:
            torch.set_num_threads(1)  # ranks and engines share the cores of a node
            backend = "gloo"
        variables = read_variables(os.environ)
        if keeps_all_logs(self._config.trainer):
            logging.getLogger().setLevel(variables.log_level)
            keep_log(log_directory(self._config.trainer), f"{'-'.join(self._wanted)}-{rank}")
        timeout = timedelta(seconds=variables.collective_seconds)
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout)
        if rank == 0 and POLICY in self._wanted:
            self._sender = WeightSender(backend=self._transfer_backend())

    def _transfer_backend(self) -> str:
        wanted = self._config.generator.inference_engine.weight_sync_backend
        if wanted == "nccl" and not torch.cuda.is_available():
            raise ValueError(
                "generator.inference_engine.weight_sync_backend: nccl needs GPUs, and this trainer has none; "
                "set it to gloo"
            )
        return wanted

    def load(self, total_steps: int, checkpoint: str | None) -> None:
        """Load the models, then what the checkpoint has of them if there is one."""
        if POLICY in self._wanted:
            self._policy = PolicyRank(self._config, total_steps=total_steps)
        if REFERENCE in self._wanted:
            self._reference = ReferenceRank(self._config)
        if CRITIC in self._wanted:
            self._critic = CriticRank(self._config, total_steps=total_steps)
        if checkpoint is not None:
            for name, model in self._saved().items():
                model.load(f"{checkpoint}/{name}")

    def _saved(self) -> dict[str, PolicyRank | ReferenceRank | CriticRank]:
        """What checkpoints hold of this rank; the reference only where it does not stay as it was loaded."""
        changing = self._reference if self._config.trainer.update_ref_every_epoch else None
        models = {POLICY: self._policy, REFERENCE: changing, CRITIC: self._critic}
        return {name: model for name, model in models.items() if model is not None}

    @property
    def policy(self) -> PolicyRank:
        """The loaded policy."""
        assert self._policy is not None, "load() comes before everything that needs the model"
        return self._policy

    @property
    def reference(self) -> ReferenceRank:
        """The loaded reference."""
        assert self._reference is not None, "this pool has the reference, and load() came before"
        return self._reference

    @property
    def critic(self) -> CriticRank:
        """The loaded critic."""
        assert self._critic is not None, "this pool has the critic, and load() came before"
        return self._critic

    @property
    def sender(self) -> WeightSender:
        """Rank 0's end of the weight sync."""
        assert self._sender is not None, "only rank 0 sends weights"
        return self._sender

    def logprobs(self, batch: TrainBatch) -> Tensor | None:
        """Under the policy, [rows, response] of this rank's rows; None where another rank has the same rows."""
        scores = self.policy.logprobs(batch)
        return scores if self.policy.leads else None

    def reference_logprobs(self, batch: TrainBatch) -> Tensor | None:
        """As `logprobs`, under the reference."""
        if reference_is_the_policy(self._config):
            scores = self.policy.reference_logprobs(batch)
            return scores if self.policy.leads else None
        scores = self.reference.logprobs(batch)
        return scores if self.reference.leads else None

    def values(self, batch: TrainBatch) -> Tensor | None:
        """As `logprobs`, the critic's values."""
        values = self.critic.values(batch)
        return values if self.critic.leads else None

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """Train the policy on the whole batch; every rank takes its own share and returns the same metrics."""
        return self.policy.update(batch)

    def update_critic(self, batch: TrainBatch) -> dict[str, float]:
        """As `update`, the critic."""
        return self.critic.update(batch)

    def refresh_reference(self) -> None:
        """Make the reference of this pool what the policy of this pool is now."""
        self.reference.take(self.policy.gather_parameters())

    def policy_parameters(self) -> dict[str, Tensor]:
        """The policy's full parameters in the host's memory, on rank 0; other ranks take part and return none."""
        parameters = self.policy.gather_parameters()
        if dist.get_rank() == 0:
            return {name: tensor.to("cpu", copy=True) for name, tensor in parameters}
        collections.deque(parameters, maxlen=0)
        return {}

    def take_reference(self, parameters: dict[str, Tensor]) -> None:
        """Make the reference of this pool the model with these full parameters."""
        self.reference.take(parameters.items())

    def export(self, directory: str) -> None:
        """Write the policy in Hugging Face's format."""
        self.policy.export(directory)

    def export_critic(self, directory: str) -> None:
        """As `export`, the critic."""
        self.critic.export(directory)

    def save(self, directory: str) -> None:
        """Copy this rank's state and begin to write it below `directory`."""
        for name, model in self._saved().items():
            model.save(f"{directory}/{name}")

    @ray.method(concurrency_group="saving")
    def written(self) -> dict[str, FileRecord]:
        """Wait until all ranks have written; this rank's files by their paths below the directory of `save`."""
        return {
            f"{name}/{file}": record
            for name, model in self._saved().items()
            for file, record in model.written().items()
        }

    def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Rank 0 only: form the transfer group with the engines."""
        self.sender.join(address, port, world_size, timeout_seconds)

    @ray.method(concurrency_group="control")
    def leave_engines(self) -> None:
        """Rank 0 only: leave the transfer group."""
        self.sender.leave()

    def stage(self) -> list[Bucket]:
        """Gather the full parameters (all ranks) and pack them into buckets (rank 0, which returns them)."""
        parameters = self.policy.gather_parameters()
        if self._sender is not None:
            return self._sender.stage(parameters)
        collections.deque(parameters, maxlen=0)  # a gather is a collective: every rank takes part, rank 0 keeps it
        return []

    def broadcast(self, bucket_index: int) -> None:
        """Rank 0 only: send one staged bucket to the engines."""
        self.sender.broadcast(bucket_index)


# leave_engines has a thread of its own, because it must end a broadcast that hangs on the first, and so has the wait
# for a checkpoint that is written beside training. (Any: Ray's annotations do not know concurrency groups.)
_as_actor: Any = ray.remote
RankActor = _as_actor(num_cpus=0, num_gpus=1, max_restarts=0, concurrency_groups={"control": 1, "saving": 1})(Rank)
