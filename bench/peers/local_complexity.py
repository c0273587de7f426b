#!/usr/bin/env python3
"""Local complexity beside PyTorch code that does what the authors' function does: every vertex of every probe through
the whole network, signs of the hooked layers compared along the vertices. CPU time at 1,000 points, in one run on one
thread, in the type of the authors' script (float64) and in float32: the shortest of ROUNDS tries for both.

Usage: local_complexity.py BENCH_LOCAL_COMPLEXITY [ROUNDS]
"""
import json
import math
import os
import subprocess
import sys
import time

try:  # one thread for everybody
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
except (AttributeError, OSError):
    pass

import torch

POINTS, BATCH = 1000, 256


def perceptron(activation, dtype):
    torch.manual_seed(1)
    layers, widths = [], [784, 200, 200, 200, 10]
    for i, o in zip(widths, widths[1:]):
        layers += [torch.nn.Linear(i, o), activation()]
    return torch.nn.Sequential(*layers[:-1]).to(dtype).eval()


def orthoplex(dimensions, directions, dtype):
    rows = torch.randn(dimensions, directions, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return torch.linalg.qr(rows)[0].t().contiguous()


@torch.no_grad()
def complexity(model, points, frame, radius):
    """Crossed neurons per point: over the hidden Linear layers, whose outputs hooks collect."""
    seen = []
    hooks = [layer.register_forward_hook(lambda _, __, out: seen.append(out))
             for layer in list(model)[:-1] if isinstance(layer, torch.nn.Linear)]
    counts = []
    for batch in points.split(BATCH):
        vertices = torch.cat([batch[:, None] + radius * frame, batch[:, None] - radius * frame], 1)
        seen.clear()
        model(vertices.flatten(0, 1))
        total = 0
        for out in seen:
            signs = torch.sign(out).view(batch.shape[0], vertices.shape[1], -1)
            total = total + (signs != signs[:, :1]).any(1).sum(1)
        counts.append(total)
    for hook in hooks:
        hook.remove()
    return torch.cat(counts)


def best(work, rounds):
    shortest = math.inf
    for _ in range(rounds):
        start = time.process_time()
        work()
        shortest = min(shortest, time.process_time() - start)
    return 1e3 * shortest


def main():
    rounds = sys.argv[2] if len(sys.argv) > 2 else "6"
    torch.set_num_threads(1)
    lines = subprocess.run([sys.argv[1], "--json", rounds], check=True, capture_output=True, text=True).stdout
    print(f"{'':10} {'P':>4} {'radius':>7} {'ours ms':>9} {'PyTorch ms':>11} {'ratio':>7} {'crossed':>16}")
    for ours in map(json.loads, lines.splitlines()):
        name = ours["case"]
        dtype = torch.float64 if name.endswith("f64") else torch.float32
        model = perceptron(torch.nn.GELU if name.startswith("gelu") else torch.nn.ReLU, dtype)
        points = torch.rand(POINTS, 784, dtype=dtype, generator=torch.Generator().manual_seed(2))
        frame = orthoplex(784, ours["directions"], dtype)
        # Also the warm-up. Our program has none: the first of its tries is cold, and counted.
        crossed = complexity(model, points, frame, ours["radius"]).double().mean().item()
        took = best(lambda: complexity(model, points, frame, ours["radius"]), int(rounds))
        print(f"{name:10} {ours['directions']:4} {ours['radius']:7g} {ours['complexity_ms']:9.1f} {took:11.1f} "
              f"{took / ours['complexity_ms']:6.1f}x {ours['crossed']:7.2f} {crossed:8.2f}")


if __name__ == "__main__":
    main()
