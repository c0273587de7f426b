#!/usr/bin/env python3
"""Propagation of input noise (unbend/tangent/stable_distribution.h) beside PyTorch code of the published form, which takes one
gradient per output, and beside 1,000 Monte Carlo draws; in turns, in one run, on one thread, in CPU time:
in each turn the shortest of as many tries for all, after a warm-up.

Usage: uncertainty.py BENCH_UNCERTAINTY [TURNS]

Values are compared first. Bars: 1.5 times the published form (the faster of with and without a graph for training), 20 times
Monte Carlo, marginal form at most 3 forward passes (perceptron).
"""
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
STD, DRAWS, TRIES = 0.1, 1000, 5
missed = []


def bar(text, ok):
    print(f"  {text}: {'pass' if ok else 'MISS'}")
    if not ok:
        missed.append(text)


def by_gradients(net, x, create_graph):
    """Mean and covariance, one gradient per output of the sum over the batch."""
    x = x.detach().requires_grad_()
    y = net(x)
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True, create_graph=create_graph)[0].flatten(1) for i in range(y.shape[1])]
    jacobian = torch.stack(rows, 1)
    return y, STD**2 * jacobian @ jacobian.mT


@torch.no_grad()
def by_draws(net, x, draws):
    total = squares = 0
    for _ in range(draws):
        y = net(x + STD * torch.randn_like(x))
        total, squares = total + y, squares + y.unsqueeze(2) * y.unsqueeze(1)
    mean = total / draws
    return mean, squares / draws - mean.unsqueeze(2) * mean.unsqueeze(1)


def milliseconds(work):
    best = math.inf
    work()  # warm-up, as in bench/uncertainty.cc
    for _ in range(TRIES):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return 1e3 * best


def main():
    program, turns = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.manual_seed(1)
    cases = {
        "MLP 784-200-200-10, batch 256": (nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)), (256, 784)),
        "conv 1-16-32, 28 x 28, batch 64": (nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
                                                          nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 10)), (64, 1, 28, 28)),
    }
    with tempfile.TemporaryDirectory(prefix="unbend-bench-") as name:
        for title, (net, shape) in cases.items():
            folder, x = Path(name), torch.rand(shape)
            net.eval()
            torch.jit.save(torch.jit.script(net), folder / "net.pt")
            np.save(folder / "x.npy", x.numpy())
            for p in net.parameters():
                p.requires_grad_(False)
            best = {}
            keep = lambda key, value: best.__setitem__(key, min(value, best.get(key, math.inf)))
            for turn in range(turns):
                command = [program, folder / "net.pt", folder / "x.npy", str(STD), folder / "s.npy", str(TRIES)]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    sys.exit(result.stderr)
                for key, value in json.loads(result.stdout).items():
                    keep(key, value)
                keep("gradients", milliseconds(lambda: by_gradients(net, x, False)))
                for p in net.parameters():
                    p.requires_grad_(True)
                keep("gradients, graph", milliseconds(lambda: by_gradients(net, x, True)))
                for p in net.parameters():
                    p.requires_grad_(False)
                keep("forward in PyTorch", milliseconds(lambda: net(x)))
                keep("draws", DRAWS / 50 * milliseconds(lambda: by_draws(net, x, 50)))
                if turn == 0:
                    theirs, ours = by_gradients(net, x, False)[1], torch.from_numpy(np.load(folder / "s.npy"))
                    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            published = min(best["gradients"], best["gradients, graph"])
            print(f"{title} (covariances differ by {difference:.0e} of the largest entry)")
            for key, value in best.items():
                print(f"  {key:20} {value:10.2f} ms")
            bar(f"published form over ours {published / best['full']:.2f} x (bar 1.5)", published >= 1.5 * best["full"])
            bar(f"{DRAWS} draws over ours     {best['draws'] / best['full']:.1f} x (bar 20)", best["draws"] >= 20 * best["full"])
            bar(f"marginal over forward    {best['marginal'] / best['forward']:.2f} x (bar 3)", best["marginal"] <= 3 * best["forward"])
            assert difference < 1e-4, "other values than PyTorch's"
    if missed:
        sys.exit(f"{len(missed)} bars missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
