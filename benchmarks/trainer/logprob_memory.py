"""Peak memory of token log-probabilities and entropy, chunked against naive, forward and backward, on a CPU.

    python benchmarks/trainer/logprob_memory.py [--tokens 512 1024] [--vocabulary 151936] [--width 64] [--json FILE]

Naive: logits [tokens, vocabulary] in float32, log_softmax, entropy from it, autograd. Chunked:
`rltrain_trainer.models.logprobs.token_scores`. Each case runs in a process of its own; what counts is by how much its
resident memory rose above what it had with input and output embedding in place. On a GPU see gpu.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from rltrain_trainer.models.logprobs import token_scores

FORMS = ("naive", "chunked")
MIB = 2**20


def naive_token_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """What `token_scores` gives, from a full logits tensor."""
    logprobs = ((hidden @ weight.t()).float() / temperature).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(form: str, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """One forward and backward pass in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    weight.grad = torch.zeros_like(weight)  # there in any training; not what is compared
    before = peak_bytes()
    began = time.process_time()
    scores = token_scores if form == "chunked" else naive_token_scores
    logprobs, entropy = scores(hidden, weight, targets, temperature=1.0)
    (logprobs.mean() + 0.01 * entropy.mean()).backward()
    return {
        "bytes": peak_bytes() - before,
        "cpu_seconds": time.process_time() - began,
        "logprob": logprobs.double().mean().item(),
        "gradient": hidden.grad.double().norm().item() if hidden.grad is not None else 0.0,
    }


def main() -> None:
    """Measure each case in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--vocabulary", type=int, default=151_936, help="Qwen2's")
    parser.add_argument("--width", type=int, default=64, help="of hidden states; logits do not depend on it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)  # what the processes are called with
    arguments = parser.parse_args()
    if arguments.case is not None:
        form, *sizes = arguments.case
        print(json.dumps(measure(form, *map(int, sizes))))
        return
    report = []
    print("| tokens | logits, MiB | naive, MiB | chunked, MiB | naive / chunked | CPU seconds, naive and chunked |")
    print("|---|---|---|---|---|---|")
    for tokens in arguments.tokens:
        found = {}
        for form in FORMS:
            case = [form, str(tokens), str(arguments.vocabulary), str(arguments.width)]
            command = [sys.executable, __file__, "--case", *case]
            found[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        naive, chunked = (found[form] for form in FORMS)
        for name in ("logprob", "gradient"):
            assert abs(naive[name] - chunked[name]) <= 1e-4 * abs(naive[name]), f"{name} differs: {naive} {chunked}"
        print(
            f"| {tokens:,} | {4 * tokens * arguments.vocabulary / MIB:,.0f} | {naive['bytes'] / MIB:,.0f} "
            f"| {chunked['bytes'] / MIB:,.0f} | {naive['bytes'] / chunked['bytes']:.1f} "
            f"| {naive['cpu_seconds']:.1f}, {chunked['cpu_seconds']:.1f} |",
            flush=True,
        )
        report.append({"tokens": tokens, "vocabulary": arguments.vocabulary, **found})
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
