# SPDX-License-Identifier: Apache-2.0
"""Attention forth and back in bfloat16 on the CPU, as training does it: two matrix products against torch's fused one.

python benchmarks/training_attention.py [--batch 8 --heads 4 --length 528 --head-dim 64]
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F

from hvg3d_core.models.attention import plain_attention


def measure(attend, tensors: list[torch.Tensor], grad: torch.Tensor) -> tuple[float, float]:
    """Processor seconds (forth, back)."""
    began = time.process_time()
    out = attend(*tensors)
    middle = time.process_time()
    out.backward(grad)
    return middle - began, time.process_time() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch", 8), ("heads", 4), ("length", 528), ("head-dim", 64), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = (options.batch, options.heads, options.length, options.head_dim)
    tensors = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    grad = torch.randn(shape, dtype=torch.bfloat16)
    ways = {"torch's fused attention": F.scaled_dot_product_attention, "two matrix products": plain_attention}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.repeats):  # in turn, so that other load strikes both
        for name, attend in ways.items():
            times[name].append(measure(attend, tensors, grad))
    best = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    floor = sum(best["torch's fused attention"])
    print(f"{shape} bfloat16, {torch.get_num_threads()} threads, processor ms, best of {options.repeats}")
    print("| | forth | back | both, of the fused |\n|---|---|---|---|")
    for name, (forth, back) in best.items():
        print(f"| {name} | {forth * 1e3:.1f} | {back * 1e3:.1f} | {(forth + back) / floor:.2f} |")


if __name__ == "__main__":
    main()
