#!/usr/bin/env python3
"""Our control step, its Gaussian process and its filter beside scikit-learn's process and four solvers of cone programs.

  tools/setup.sh control && cmake --build build/release --target bench_peers_safe_control
  .venv/bin/python bench/peers/safe_control.py build/release/bench/bench_peers_safe_control

Runs the C++ program (its own bars: control step below 0.5 ms at the median and 1 ms at 99.9 %, the filter beside SCS in the
same process), then the peers on the data and filter problems that it dumped, one thread each. The times of the solvers are
those that they report for themselves (set-up and solving, no Python). Exits with 1 if a bar is missed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402


def median(values):
    return float(np.median(values))


def time_process(dump):
    """Median microseconds of one prediction with its deviation, the best of calls with one and (per query) a thousand."""
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels as k
    terms = dump["kernel"]["drift"]
    kernel = k.ConstantKernel(terms[0][0]["constant"] ** 2) * k.RBF(terms[0][1]["squared_exponential"])
    kernel += k.ConstantKernel(terms[1][0]["constant"] ** 2) * k.DotProduct(1.0)
    y = np.array(dump["y"])
    process = GaussianProcessRegressor(kernel, alpha=dump["kernel"]["noise"] ** 2, optimizer=None)
    process.fit(np.array(dump["z"]), y / y.std(0))
    queries = np.array(dump["queries"])
    times = []
    for query in queries[:300]:
        start = time.perf_counter()
        process.predict(query[None], return_std=True)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    process.predict(queries, return_std=True)
    batch = (time.perf_counter() - start) / len(queries)
    return 1e6 * median(times), 1e6 * batch


def cone_data(problem):
    """min (v'v) / 2, v = u - desired, rows divided by the length of a: G v + s = h, s in a second-order cone."""
    a, desired = np.array(problem["a"]), np.array(problem["desired"])
    size, n = np.linalg.norm(a), len(a)
    m = np.array(problem["m"]).reshape(-1, n + 1) / size  # column-major of the transpose: rows of M
    h = np.concatenate([[(a @ desired + problem["b"]) / size], m[:, 0] + m[:, 1:] @ desired])
    g = -np.vstack([a / size, m[:, 1:]])
    unit = np.linalg.norm(h[1:]) - h[0]  # the violation: of order one afterwards
    return g, h / unit, unit, desired


def with_distance(g, h):
    """The linear form for solvers without a quadratic objective: min t, |v| <= t."""
    rows, n = g.shape
    first = np.zeros((n + 1, n + 1))
    first[0, n] = -1
    first[1:, :n] = -np.eye(n)
    return np.vstack([first, np.hstack([g, np.zeros((rows, 1))])]), np.concatenate([np.zeros(n + 1), h])


def time_clarabel(problems):
    import clarabel
    import scipy.sparse as sp
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    times, solutions = [], []
    for g, h, unit, desired in problems:
        n = g.shape[1]
        solver = clarabel.DefaultSolver(sp.eye(n, format="csc"), np.zeros(n), sp.csc_matrix(g), h,
                                        [clarabel.SecondOrderConeT(len(h))], settings)
        solution = solver.solve()
        times.append(1e6 * solution.solve_time)
        solutions.append(desired + unit * np.array(solution.x))
    return times, solutions


def time_ecos(problems):
    import ecos
    import scipy.sparse as sp
    times, solutions = [], []
    for g, h, unit, desired in problems:
        n = g.shape[1]
        big, right = with_distance(g, h)
        solution = ecos.solve(np.r_[np.zeros(n), 1], sp.csc_matrix(big), right, {"l": 0, "q": [n + 1, len(h)]}, verbose=False)
        times.append(1e6 * (solution["info"]["timing"]["tsetup"] + solution["info"]["timing"]["tsolve"]))
        solutions.append(desired + unit * solution["x"][:n])
    return times, solutions


def time_scs(problems):
    import scipy.sparse as sp
    import scs
    times, solutions = [], []
    for g, h, unit, desired in problems:
        n = g.shape[1]
        data = {"P": sp.eye(n, format="csc"), "A": sp.csc_matrix(g), "b": h, "c": np.zeros(n)}
        solution = scs.SCS(data, {"q": [len(h)]}, verbose=False, eps_abs=1e-6, eps_rel=1e-6).solve()
        times.append(1e3 * (solution["info"]["setup_time"] + solution["info"]["solve_time"]))
        solutions.append(desired + unit * solution["x"])
    return times, solutions


def time_cvxopt(problems):
    import cvxopt
    cvxopt.solvers.options["show_progress"] = False
    times, solutions = [], []
    for g, h, unit, desired in problems:
        n = g.shape[1]
        p, q = cvxopt.matrix(np.eye(n)), cvxopt.matrix(np.zeros(n))
        matrices = cvxopt.matrix(g), cvxopt.matrix(h)
        start = time.perf_counter()  # it times nothing itself: this includes its Python
        solution = cvxopt.solvers.coneqp(p, q, *matrices, {"l": 0, "q": [len(h)], "s": []})
        times.append(1e6 * (time.perf_counter() - start))
        solutions.append(desired + unit * np.array(solution["x"]).ravel())
    return times, solutions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    program = parser.parse_args().program
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dump.json")
        ours = subprocess.run([program, "--dump", path], text=True, stdout=subprocess.PIPE, check=False)
        print(ours.stdout)
        with open(path, encoding="utf-8") as file:
            dump = json.load(file)
    missed = ours.returncode != 0
    times = dump["times"]

    single, batch = time_process(dump)
    ratio = min(single, batch) / times["query"]
    print(f"process, mean and deviation: ours {times['query']:.1f} us; scikit-learn's {single:.1f} us a query, {batch:.1f} us in a "
          f"batch of {len(dump['queries'])} (without the gain's kernel): {ratio:.1f} times ours, {'pass' if ratio >= 1 else 'MISS'}")
    missed |= ratio < 1
    problems = [cone_data(problem) for problem in dump["problems"]]
    for name, run in (("Clarabel", time_clarabel), ("ECOS", time_ecos), ("SCS to 1e-6", time_scs), ("CVXOPT", time_cvxopt)):
        spent, solutions = run(problems)
        apart = max(np.linalg.norm(s - p["u"]) for s, p in zip(solutions, dump["problems"]))
        ratio = median(spent) / times["filter"]
        print(f"filter: ours {times['filter']:.1f} us; {name} {median(spent):.1f} us: {ratio:.1f} times ours, "
              f"{'pass' if ratio >= 1 else 'MISS'}; inputs differ by at most {apart:.1e}")
        missed |= ratio < 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
