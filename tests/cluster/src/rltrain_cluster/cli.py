"""The command line: take a cluster up, look at it, bring images into it, take it down.

Every failure is one message on standard error and exit code 1. This module must not know how any back end works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rltrain_cluster import clusters
from rltrain_cluster.backend import Backend
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.settings import DEFAULT_NAME

PASSED_ON = ("kubectl", "helm")  # everything after these words is theirs


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m rltrain_cluster", description=__doc__.split("\n", 1)[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default=DEFAULT_NAME, help="which cluster; several can live side by side")
    commands = top.add_subparsers(dest="command", required=True)

    up = commands.add_parser("up", parents=[common], help="take the cluster up; quick if it is up already")
    up.add_argument("--backend", choices=sorted(clusters.BACKENDS), help=f"default: {clusters.DEFAULT_BACKEND}")
    up.add_argument("--nodes", type=int, help="default: 1")
    up.add_argument("--gpus-per-node", type=int, help="fake nvidia.com/gpu devices that each node advertises")
    up.add_argument("--without-kuberay", action="store_true", help="leave KubeRay's operator out")

    commands.add_parser("down", parents=[common], help="end the cluster and leave the machine as it was")
    commands.add_parser("status", parents=[common], help="say what runs; exit code 0 only if all of it does")
    commands.add_parser("kubeconfig", parents=[common], help="print the path of the administrator's kubeconfig")
    commands.add_parser("kuberay", parents=[common], help="have KubeRay's operator run on the cluster")
    commands.add_parser("kueue", parents=[common], help="have Kueue's controller run on the cluster")
    logs = commands.add_parser("logs", parents=[common], help="print the output of one component")
    logs.add_argument("component")
    image = commands.add_parser("load-image", parents=[common], help="bring an image into every node")
    image.add_argument("archive", type=Path, help="a docker archive")
    image.add_argument("image", help="the image's name in it, with its tag")
    volume = commands.add_parser("volume-path", parents=[common], help="print the directory of a claim's volume")
    volume.add_argument("namespace")
    volume.add_argument("claim")
    for name in PASSED_ON:  # for --help; their arguments never reach this parser
        commands.add_parser(name, parents=[common], help=f"{name} on the cluster", add_help=False)
    return top


def split_passed_on(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part ours from theirs: of `kubectl --name two -n a get pods`, all from `-n` on is kubectl's."""
    if not arguments or arguments[0] not in PASSED_ON:
        return list(arguments), []
    ours = 3 if arguments[1:2] == ["--name"] else 1
    return list(arguments[:ours]), list(arguments[ours:])


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _up(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    cluster = clusters.wanted(options.name, options.backend, options.nodes, options.gpus_per_node)
    cluster.up(report)
    if not options.without_kuberay:
        cluster.ensure_kuberay(report)
    report(f"cluster {options.name} is up ({time.monotonic() - begin:.1f} s): KUBECONFIG={cluster.kubeconfig}")
    return 0


def _status(cluster: Backend) -> int:
    status = cluster.status()
    print(f"{status.name} ({status.backend}): {'running' if status.running else 'not running'}")
    for line in status.lines:
        print(f"  {line}")
    return 0 if status.running else 1


def _pass_on(cluster: Backend, program: str, arguments: Sequence[str]) -> int:
    path = ensure_binaries(report).path(program)
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    return subprocess.run([path, *arguments], env=environment, check=False).returncode


def execute(options: argparse.Namespace, passed_on: Sequence[str] = ()) -> int:
    """Run one parsed command and return its exit code."""
    if options.command == "up":
        return _up(options)
    cluster = clusters.find(options.name)
    if options.command == "down":
        cluster.down(report)
    elif options.command == "status":
        return _status(cluster)
    elif options.command == "kubeconfig":
        print(cluster.kubeconfig)
    elif options.command == "kuberay":
        cluster.ensure_kuberay(report)
    elif options.command == "kueue":
        cluster.ensure_kueue(report)
    elif options.command == "logs":
        print(cluster.logs(options.component), end="")
    elif options.command == "load-image":
        loaded = cluster.load_image(options.archive, options.image)
        report(f"{options.image}: {'loaded' if loaded else 'all nodes have it already'}")
    elif options.command == "volume-path":
        print(cluster.volume_path(options.namespace, options.claim))
    else:
        return _pass_on(cluster, options.command, passed_on)
    return 0


def main() -> None:
    ours, theirs = split_passed_on(sys.argv[1:])
    options = parser().parse_args(ours)
    try:
        sys.exit(execute(options, theirs))
    except ClusterError as error:
        print(f"rltrain_cluster: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("rltrain_cluster: interrupted; `up` and `down` can be run again", file=sys.stderr)
        sys.exit(130)
