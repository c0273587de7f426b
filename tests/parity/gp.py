"""Our Gaussian processes against scikit-learn's with the same fixed kernels, on real data: mean, deviation, likelihood."""
import csv
import json
import pathlib
import subprocess
import sys

try:
    import numpy as np
    from sklearn.datasets import load_diabetes
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process import kernels as k
except ImportError:
    print("scikit-learn is not installed: tools/setup.sh peers")
    sys.exit(77)


def numbers(path, columns):
    with open(path, encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))[1:]
    return [[float(row[c]) for c in columns] for row in rows if all(row[c] not in ("", "NA") for c in columns)]


def data_sets():
    root = pathlib.Path(__file__).parent.parent.parent
    crash = np.array(numbers(root / "data" / "mcycle" / "mcycle.csv", (0, 1)))
    yield "mcycle", crash[:, :1], crash[:, 1], [[{"constant": 50.0}, {"matern52": 8.0}]], \
        k.ConstantKernel(2500.0) * k.Matern(8.0, nu=2.5), 20.0
    yield "mcycle", crash[:, :1], crash[:, 1], [[{"constant": 40.0}, {"squared_exponential": 5.0}], [{"linear": 2.0}]], \
        k.ConstantKernel(1600.0) * k.RBF(5.0) + k.DotProduct(2.0), 23.0
    co2 = root / "build" / "data" / "co2.csv"
    if co2.exists():
        weekly = np.array([[i / 52.18, value] for i, (value,) in enumerate(numbers(co2, (1,)))])[::3]
        yield "co2", weekly[:, :1], weekly[:, 1] - weekly[:, 1].mean(), \
            [[{"constant": 60.0}, {"squared_exponential": 40.0}],
             [{"constant": 2.5}, {"squared_exponential": 90.0}, {"periodic": [1.3, 1.0]}],
             [{"constant": 0.7}, {"rational_quadratic": [1.2, 0.8]}]], \
            k.ConstantKernel(3600.0) * k.RBF(40.0) + k.ConstantKernel(6.25) * k.RBF(90.0) * k.ExpSineSquared(1.3, 1.0) \
            + k.ConstantKernel(0.49) * k.RationalQuadratic(1.2, 0.8), 0.3
    z, y = load_diabetes(return_X_y=True)
    yield "diabetes", z * 20, y - y.mean(), [[{"constant": 70.0}, {"matern32": 3.0}]], \
        k.ConstantKernel(4900.0) * k.Matern(3.0, nu=1.5), 55.0


def main(tool):
    for name, z, y, ours, theirs, noise in data_sets():
        queries = np.concatenate([z[::7] + 0.013, z.mean(0)[None], z.max(0)[None] + 1])
        problem = {"kernel": ours, "noise": noise, "z": z.tolist(), "y": y[:, None].tolist(), "queries": queries.tolist()}
        answer = json.loads(subprocess.run([tool], input=json.dumps(problem), capture_output=True, text=True, check=True).stdout)
        process = GaussianProcessRegressor(theirs, alpha=noise**2, optimizer=None).fit(z, y)
        mean, deviation = process.predict(queries, return_std=True)
        scale = np.abs(y).max()
        likelihood = process.log_marginal_likelihood(process.kernel_.theta)
        errors = {
            "mean": np.abs(mean - answer["mean"]).max() / scale,
            "deviation": np.abs(deviation - answer["deviation"]).max() / deviation.max(),
            "likelihood": abs(likelihood - answer["log_likelihood"]) / abs(likelihood),
        }
        print(f"{name}: {len(z)} rows, " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items()))
        assert answer["jitter"] == 0
        assert all(error < 1e-8 for error in errors.values()), (name, errors)
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
