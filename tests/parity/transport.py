"""Optimal partial transport and circular transport by the verb `measure distance --exact` beside POT's solvers. POT's LCOT is
not compared: its quantiles are off by one atom."""
import json
import os
import subprocess
import sys
from pathlib import Path

from common import folder, need

for backend in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):
    os.environ[f"POT_BACKEND_DISABLE_{backend}"] = "1"
need("ot")
import numpy as np
import ot

unbend = sys.argv[1]
rng = np.random.default_rng(1)


def distances(path, files, *options):
    run = subprocess.run([unbend, "measure", "distance", *files, *map(str, options), "--exact", "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def check_partial(path):
    for dim, lam in ((1, 0.3), (2, 0.2), (2, 3.0), (5, 4.0)):
        for equal in (False, True):
            clouds = [np.column_stack([rng.standard_normal((n, dim)), np.ones(n) if equal else 0.1 + rng.random(n)]) for n in (30, 45, 38)]
            files = [path / f"{k}.npy" for k in range(3)]
            for file, cloud in zip(files, clouds):
                np.save(file, cloud)
            found = distances(path, files, "--masses", "column", "--lambda", lam, "--reference-size", 10)
            for i in range(3):
                for j in range(i):
                    (x, p), (y, q) = ((c[:, :-1], c[:, -1]) for c in (clouds[i], clouds[j]))
                    scale = max(p.sum(), q.sum()) * (1 + 1e-12)
                    cost = ot.dist(x, y)
                    plan = ot.partial.partial_wasserstein_lagrange(p / scale, q / scale, cost, reg_m=2 * lam)
                    value = lam * (p.sum() + q.sum()) + scale * ((cost - 2 * lam) * plan).sum()
                    assert abs(found["exact"][i][j] - value) < 1e-9 * (1 + value), (dim, lam, equal, found["exact"][i][j], value)


def check_circle(path):
    for p in (1, 2, 3):
        sets = [np.column_stack([rng.random(n), 0.1 + rng.random(n)]) for n in (20, 33)]
        files = [path / f"c{k}.npy" for k in range(2)]
        for file, points in zip(files, sets):
            np.save(file, points)
        found = distances(path, files, "--space", "circle", "--period", 1, "--masses", "column", "--p", p)
        (x, a), (y, b) = ((c[:, :1], c[:, 1] / c[:, 1].sum()) for c in sets)
        value = ot.binary_search_circle(x, y, a, b, p=p)[0] ** (1 / p)
        assert abs(found["exact"][1][0] - value) < 1e-7, (p, found["exact"][1][0], value)
        assert found["matrix"][1][0] >= value - 1e-9


def check_balanced(path):
    clouds = [rng.standard_normal((n, 2)) for n in (25, 40)]
    files = [path / f"b{k}.npy" for k in range(2)]
    for file, cloud in zip(files, clouds):
        np.save(file, cloud)
    found = distances(path, files, "--method", "lot", "--reference-size", 10)
    value = ot.emd2(ot.unif(25), ot.unif(40), ot.dist(*clouds)) ** 0.5
    assert abs(found["exact"][1][0] - value) < 1e-9 * value


with folder() as name:
    check_partial(Path(name))
    check_circle(Path(name))
    check_balanced(Path(name))
print("partial, balanced and circular transport: POT's values")
