"""Training of a kernel GAN: `unbend gan stability` beside a simulator in PyTorch that, as the public one of the method's
authors does, evaluates the kernel at the whole history of the points in every step. Same points, float64, one thread,
in turns; the final positions must agree.

Usage: kernel_gan.py UNBEND [STEPS] (with the Python of .venv, which has torch)
"""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

SIGMA, LAMBDA, ETA_D, ETA_G = 1.0, 0.1, 0.01, 1.0
TRUE, GENERATED, TURNS = 8, 20, 3


def ring(count, radius, shift):
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count) + shift
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def gradient(x, z, weights):
    """sum_s weights_s grad_x exp(-|x - z_s|^2 / (2 sigma^2)) for x [n, d], z [m, d]."""
    difference = x[:, None] - z[None]
    kernel = torch.exp(difference.square().sum(-1) / (-2 * SIGMA ** 2))
    return -(difference * (kernel * weights)[..., None]).sum(1) / SIGMA ** 2


def train(true, points, steps):
    p, q = 1 / len(true), 1 / len(points)
    history = torch.empty(steps, *points.shape, dtype=points.dtype)
    keep = 1 - ETA_D * LAMBDA
    powers = ETA_D * keep ** torch.arange(steps, dtype=points.dtype)
    for k in range(steps):
        history[k] = points
        weights = powers[:k + 1].flip(0)  # of the steps so far, the newest last
        of_true = gradient(points, true, torch.full((len(true),), p * weights.sum().item(), dtype=points.dtype))
        of_own = gradient(points, history[:k + 1].flatten(0, 1), (-q * weights).repeat_interleave(len(points)))
        points = points + ETA_G * q * (of_true + of_own)
    return points


def ours(unbend, folder, true, points, steps):
    np.save(folder / "true.npy", true.numpy())
    np.save(folder / "points.npy", points.numpy())
    run = subprocess.run(
        [unbend, "gan", "stability", "--true", folder / "true.npy", "--generated", folder / "points.npy", "--sigma",
         str(SIGMA), "--lambda", str(LAMBDA), "--eta-d", str(ETA_D), "--eta-g", str(ETA_G), "--steps", str(steps),
         "--forget", "0", "--record-every", str(steps), "--trajectory", folder / "path.npy", "--threads", "1", "--json"],
        capture_output=True, text=True, check=True)
    return json.loads(run.stdout)["simulation"]["seconds"], torch.from_numpy(np.load(folder / "path.npy")[-1])


def main():
    unbend, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    torch.set_num_threads(1)
    true, points = ring(TRUE, 3, 0), ring(GENERATED, .5, .1)
    seconds = {"unbend": math.inf, "PyTorch": math.inf}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(TURNS):
            taken, mine = ours(unbend, Path(name), true, points, steps)
            seconds["unbend"] = min(seconds["unbend"], taken)
            start = perf_counter()
            theirs = train(true, points, steps)
            seconds["PyTorch"] = min(seconds["PyTorch"], perf_counter() - start)
            difference = (mine - theirs).abs().max().item()
            assert difference < 1e-9, f"final positions differ by {difference}"
    pairs = steps * (steps + 1) / 2 * GENERATED ** 2
    print(f"{steps} steps, {GENERATED} points, whole history ({pairs:.2g} pairs); shortest of {TURNS} turns")
    for program, taken in seconds.items():
        print(f"{program:8} {taken:7.2f} s  {pairs / taken / 1e6:7.0f} million pairs/s")
    print(f"ratio    {seconds['PyTorch'] / seconds['unbend']:7.1f}  (final positions agree to {difference:.0e})")


if __name__ == "__main__":
    main()
