"""`unbend fit` beside SciPy's trust-exact and curve_fit: the same weights to 1e-6. Usage: minimizers.py UNBEND"""
import json
import sys
from pathlib import Path

from common import folder, need, run

need("numpy", "scipy")

import numpy as np
from scipy.optimize import curve_fit, minimize

UNBEND = sys.argv[1]


def logistic():
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 8))
    y = np.where(x @ random.normal(size=8) + random.normal(size=400) > 0, 1., -1.)
    a, mu = np.hstack([x, np.ones((400, 1))]), np.array([1e-2] * 8 + [0])

    def value(w):
        margin = y * (a @ w)
        g = a.T @ (-y / (1 + np.exp(margin))) / 400 + mu * w
        return np.logaddexp(0, -margin).mean() + .5 * (mu * w * w).sum(), g

    def hessian(w):
        p = 1 / (1 + np.exp(-a @ w))
        return (a.T * (p * (1 - p))) @ a / 400 + np.diag(mu)

    theirs = minimize(value, np.zeros(9), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-10}).x
    with folder() as name:
        np.save(Path(name, "x.npy"), x)
        np.save(Path(name, "y.npy"), y)
        for kind in ("exact", "fisher", "product"):
            found = json.loads(run(UNBEND, "fit", "logistic", Path(name, "x.npy"), "--target", Path(name, "y.npy"), "--ridge",
                                   "0.01", "--hessian", kind, "--json"))
            assert np.abs(np.array(found["weights"][0]) - theirs).max() < 1e-6, kind
            assert abs(found["value"] - value(theirs)[0]) < 1e-12, kind


def curves():
    random = np.random.default_rng(2)
    x = np.linspace(.1, 5, 120)
    shapes = {
        "exponential": (lambda x, a, b, c: a * np.exp(b * x) + c, (3, -1.1, .5)),
        "saturation": (lambda x, a, b: a * x / (b + x), (2, .7)),
        "logistic": (lambda x, a, b, c: a / (1 + np.exp(-(x - b) / c)), (4, 2, .5)),
        "gaussian": (lambda x, a, b, c, d: a * np.exp(-(x - b) ** 2 / (2 * c * c)) + d, (2, 2.5, .6, .2)),
    }
    with folder() as name:
        for curve, (f, truth) in shapes.items():
            y = f(x, *truth) + .02 * random.normal(size=120)
            theirs, covariance = curve_fit(f, x, y, truth, ftol=1e-14, xtol=1e-14)
            np.savetxt(Path(name, "xy.csv"), np.stack([x, y], 1), delimiter=",", fmt="%.17g")
            found = json.loads(run(UNBEND, "fit", "least-squares", Path(name, "xy.csv"), "--curve", curve, "--tolerance", "1e-11",
                                   "--json"))
            assert np.abs(np.array(found["weights"][0]) - theirs).max() < 1e-5, (curve, found["weights"], theirs)


logistic()
curves()
print("the same minima as SciPy's")
