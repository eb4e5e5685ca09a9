"""`render --to slurm`: an sbatch script that starts Ray on the nodes of an allocation and the driver on the first.

What differs from cluster to cluster (partition, account, time limit, how software gets onto nodes) is left to the
reader at marked places. This module must not know SkyRL's fields.
"""

from __future__ import annotations

import math

from rltrain_api.job import RLTrainingJob
from rltrain_api.render.kubernetes import deadline_notes, mount_notes, notes_without_kubernetes
from rltrain_api.render.machines import Machines, machines_for_skyrl
from rltrain_api.render.rendered import Rendered
from rltrain_api.render.shell import driver_command, environment_notes, exports
from rltrain_api.render.upstream import RAY_VERSION, VERSION, notes_for_skyrl
from rltrain_api.render.variables import variables_for_skyrl

_MEBIBYTE = 1024 * 1024
_HEAD_DEADLINE = 300  # seconds


def render_slurm(job: RLTrainingJob) -> Rendered:
    """The script for a job that `refusals_for_skyrl` has nothing against."""
    machines, variables = machines_for_skyrl(job), variables_for_skyrl(job)
    parts = [
        "\n".join(_head(job, machines)),
        "\n".join(["set -euo pipefail", *exports(variables)]),
        f"# Load the software here, the same on every node: SkyRL {VERSION} with Ray {RAY_VERSION} and vLLM.",
        _ray(machines),
        'export RAY_ADDRESS="${address}:${port}"\n' + driver_command(job, '"${on_head[@]}"'),
    ]
    notes = [
        *notes_for_skyrl(job),
        *environment_notes(variables),
        *mount_notes(job, "make it the same shared directory on every node"),
        *notes_without_kubernetes(job, carried=("failurePolicy.backoffLimit", "activeDeadlineSeconds")),
        *deadline_notes(job),
        f"spec.runtime.image: left out ({job.spec.runtime.image}); load the same software where the script says so",
    ]
    if job.spec.failure_policy.backoff_limit > 0:
        notes.append(
            "spec.failurePolicy.backoffLimit: Slurm starts the job again when a node fails (--requeue), not when the "
            "run itself does"
        )
    return Rendered("\n\n".join(parts) + "\n", tuple(notes))


def _head(job: RLTrainingJob, machines: Machines) -> list[str]:
    deadline = job.spec.active_deadline_seconds
    settings = {
        "job-name": job.metadata.name,
        "output": "%x-%j.log",
        "nodes": machines.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": machines.gpus,
        "cpus-per-task": machines.cpus,
        **({} if deadline is None else {"time": math.ceil(deadline / 60)}),  # minutes
        # 0 is all that a node has.
        "mem": f"{math.ceil(machines.memory / _MEBIBYTE)}M" if machines.memory_is_set else "0",
    }
    return [
        "#!/usr/bin/env bash",
        *(f"#SBATCH --{name}={value}" for name, value in settings.items()),
        *(["#SBATCH --requeue"] if job.spec.failure_policy.backoff_limit > 0 else []),
        "# Add what your cluster asks for: #SBATCH --partition=…, --account=…, --time=…",
        "#",
        f"# The job {job.metadata.name} as a run of upstream SkyRL {VERSION} on {machines}.",
    ]


def _ray(machines: Machines) -> str:
    """Commands that start Ray on all nodes of the allocation."""
    size = f"--num-gpus={machines.gpus} --num-cpus={machines.cpus} --disable-usage-stats --block"
    head = f"""\
# Ray: its head on the first node, which is also the one that this script runs on.
mapfile -t nodes < <(scontrol show hostnames "${{SLURM_JOB_NODELIST}}")
address=$(hostname --all-ip-addresses | tr ' ' '\\n' | grep -m 1 -E '^[0-9]+(\\.[0-9]+){{3}}$') || {{
  echo "${{nodes[0]}} has no IPv4 address" >&2
  exit 1
}}
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node must not share it
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK}}" # steps do not inherit it
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # Ray ends with the driver
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="${{nodes[0]}}")
"${{on_head[@]}}" ray start --head --node-ip-address="${{address}}" --port="${{port}}" \\
  {size} &

head=$!
deadline=$((SECONDS + {_HEAD_DEADLINE}))
until ray health-check --address "${{address}}:${{port}}" >/dev/null 2>&1; do
  if ! kill -0 "${{head}}" 2>/dev/null || ((SECONDS > deadline)); then
    echo "Ray's head on ${{nodes[0]}} has ended, or did not answer for {_HEAD_DEADLINE} s (${{address}}:${{port}})" >&2
    exit 1
  fi
  sleep 2
done
"""
    others = machines.nodes - 1
    if not others:
        return head.rstrip("\n")
    return f"""{head}
others=("${{nodes[@]:1}}")
srun --overlap --nodes={others} --ntasks={others} --nodelist="$(IFS=, && echo "${{others[*]}}")" \\
  ray start --address="${{address}}:${{port}}" {size} &"""
