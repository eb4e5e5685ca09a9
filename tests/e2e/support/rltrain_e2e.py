"""What the end-to-end tests share: jobs made from the quickstart, and waiting for what a job's status says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from rltrain_api import names
from rltrain_cluster.demo import OPERATOR_NAMESPACE, QUICKSTART, RESOURCE, Tools
from rltrain_cluster.demo_diagnosis import diagnose_job, diagnose_operator

NAMESPACE = "rltrain-e2e"
INSIDE = f"--namespace={NAMESPACE}"
POLL_SECONDS = 1.0

Object = dict[str, Any]

# Ray runs the entry point in a shell; the Python process below it is the driver. This script's own command line holds
# the same word.
KILL_DRIVER = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
        words = (entry / "cmdline").read_bytes().split(b"\\0")
        if b"python" in words[0] and words[1:2] and words[1].endswith(b"rltrain-driver"):
            os.kill(int(entry.name), signal.SIGKILL)
            print("killed", entry.name)
"""


def quickstart() -> Object:
    """The example that the README applies, unchanged."""
    job: Object = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    return job


def short_job(name: str, *, checkpoint_every: int) -> Object:
    """The quickstart without its initializer and evaluations, with the quickstart's own data, and far from its end."""
    job = quickstart()
    job["metadata"]["name"] = name
    storage, trainer = job["spec"]["storage"], job["spec"]["config"]["trainer"]
    storage["initializers"] = []
    for volume in storage["data"]:
        volume.pop("claimTemplate")
        volume["claimName"] = names.claim_name("quickstart", volume["name"])
    trainer.update(ckpt_interval=checkpoint_every, eval_before_train=False, eval_interval=-1, epochs=50)
    trainer["ckpt_path"] = f"/checkpoints/{name}"
    return job


def condition(job: Object, kind: str) -> Object:
    """One condition of a job's status, {} when it has none of that type."""
    found = job.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


def step(job: Object) -> int:
    """Training steps done, 0 before the first."""
    return int(job.get("status", {}).get("progress", {}).get("step") or 0)


@dataclass
class Jobs:
    """The tier's jobs on its cluster."""

    tools: Tools

    def apply(self, job: Object) -> None:
        text = json.dumps(job)
        self.tools.kubectl("apply", INSIDE, "-f", "-", what=f"applying {job['metadata']['name']}", text=text)

    def patch(self, name: str, spec: Object) -> None:
        """Change fields of the spec, as a person does: `kubectl patch --type merge`."""
        change = json.dumps({"spec": spec})
        self.tools.kubectl(
            "patch", RESOURCE, name, INSIDE, "--type=merge", f"--patch={change}", what=f"patching {name}"
        )

    def scale(self, name: str, engines: int) -> None:
        """As a person or an autoscaler does: `kubectl scale rltj/NAME --replicas=N`."""
        self.tools.kubectl("scale", f"{RESOURCE}/{name}", INSIDE, f"--replicas={engines}", what=f"scaling {name}")

    def get(self, name: str) -> Object:
        job: Object = self.tools.kubectl.get(RESOURCE, name, INSIDE, what=f"reading {name}")
        return job

    def delete(self, name: str) -> None:
        """Delete as a person does: `kubectl delete rltj NAME`."""
        self.tools.kubectl("delete", RESOURCE, name, INSIDE, "--timeout=120s", what=f"deleting {name}", limit=130)

    def objects(self, kind: str, job: str) -> list[Object]:
        """The objects of one kind that belong to a job."""
        selector = f"--selector={names.JOB_LABEL}={job}"
        items: list[Object] = self.tools.kubectl.get(kind, INSIDE, selector, what=f"{kind} of {job}")["items"]
        return items

    def wait_for(
        self,
        name: str,
        holds: Callable[[Object], bool],
        *,
        what: str,
        limit: float,
        unless: Callable[[Object], bool] = lambda job: condition(job, "Failed").get("status") == "True",
    ) -> Object:
        """Poll the job until `holds`; fail at once when `unless` does, and with the whole diagnosis at the limit."""
        deadline = time.monotonic() + limit
        while not holds(job := self.get(name)):
            if unless(job) or time.monotonic() > deadline:
                diagnosis = [
                    *diagnose_job(self.tools.kubectl, NAMESPACE, name),
                    *diagnose_operator(self.tools.kubectl, OPERATOR_NAMESPACE),
                ]
                raise AssertionError("\n".join([f"{name}: {what}: not within {limit:.0f} s", *diagnosis]))
            time.sleep(POLL_SECONDS)
        return job

    def until_it_trains(self, name: str, *, attempt: int, after: int, limit: float = 400) -> Object:
        """Wait until the attempt has done a step after `after`, below which the step must never be seen to fall."""

        def trains(job: Object) -> bool:
            assert step(job) >= after, "a step was done twice"
            status = job["status"]
            return bool(status["attempt"] == attempt and step(job) > after and status["phase"] == "Running")

        return self.wait_for(name, trains, what=f"attempt {attempt} does a step after {after}", limit=limit)

    def pods(self, name: str, role: str) -> list[str]:
        """The names of the job's pods of one role that are not being deleted."""
        found = [pod["metadata"] for pod in self.objects("pods", name) if "deletionTimestamp" not in pod["metadata"]]
        return sorted(str(one["name"]) for one in found if one["labels"].get(names.ROLE_LABEL) == role)

    def head_pod(self, name: str) -> str:
        """The name of the job's head pod."""
        return self.pods(name, "head")[0]

    def in_pod(self, pod: str, *command: str) -> str:
        """Run a command in a pod of the tier; its output."""
        return self.tools.kubectl("exec", INSIDE, pod, "--", *command, what=f"{command[0]} in {pod}")
