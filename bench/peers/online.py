"""Online learning on sparse rows with a million hashed features: `unbend online train` beside Vowpal Wabbit, on the same
file in its format, in turns. Both time reading, parsing, hashing and learning (a parser thread and a learner thread
each); progressive logistic loss is compared. Bars: at least the rows per second of the fastest Vowpal Wabbit, and a
loss no worse than the least of theirs.

Usage: online.py UNBEND [ROWS] (after tools/setup.sh optimizers, with the Python of .venv)
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FEATURES, PER_ROW, BITS, TURNS = 1_000_000, 40, 20, 3
VW = {"adaptive, normalised, invariant (default)": "", "--ftrl": "--ftrl", "--coin": "--coin"}
VW_PROGRAM = """
import sys, time
sys.path.insert(0, "build/third_party/optimizers")
from vowpalwabbit import Workspace
start = time.perf_counter()
vw = Workspace(arg_str=sys.argv[1])
seconds = time.perf_counter() - start
print(seconds, vw.get_sum_loss() / vw.get_weighted_examples(), int(vw.get_weighted_examples()))
"""


def write_rows(path, count):
    """Words drawn by rank, frequent ones first, half of them with a weight; labels from a sparse logistic model."""
    random = np.random.default_rng(1)
    truth = random.normal(size=FEATURES) * (random.random(FEATURES) < .3) * .7
    with open(path, "w") as file:
        for start in range(0, count, 10000):
            size = min(10000, count - start)
            ids = np.minimum((FEATURES ** random.random((size, PER_ROW))).astype(np.int64), FEATURES - 1)
            values = np.where(random.random((size, PER_ROW)) < .5, 1.0, np.round(random.random((size, PER_ROW)), 3))
            margin = (truth[ids] * values).sum(1)
            labels = np.where(random.random(size) < 1 / (1 + np.exp(-margin)), 1, -1)
            for label, row, weights in zip(labels, ids, values):
                file.write(f"{label} |w " + " ".join(f"t{i}" if v == 1 else f"t{i}:{v:g}" for i, v in zip(row, weights)) + "\n")


def ours(unbend, data, folder, extra):
    run = subprocess.run([unbend, "online", "train", data, "--bits", str(BITS), "--model", folder / "model", "--overwrite",
                          "--json", *extra], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    found = json.loads(run.stdout)
    return found["seconds"], found["rates"][found["best"]]["mean_loss"], found["rows"]


def theirs(data, options):
    run = subprocess.run([sys.executable, "-c", VW_PROGRAM,
                          f"-d {data} -b {BITS} --loss_function logistic --quiet {options}"],
                         capture_output=True, text=True, check=True)
    seconds, loss, rows = run.stdout.split()
    return float(seconds), float(loss), int(rows)


def main():
    unbend, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "rows.vw"
        write_rows(data, count)
        data.read_bytes()  # into the system's cache
        programs = {"unbend": lambda: ours(unbend, data, folder, [])}
        for label, options in VW.items():
            programs["vw " + label] = lambda options=options: theirs(data, options)
        best = {}
        for _ in range(TURNS):
            for label, run in programs.items():
                result = run()
                assert result[2] == count, f"{label} learnt {result[2]} rows of {count}"
                best[label] = min(best.get(label, result), result)
        sweep = ours(unbend, data, folder, ["--rate", *"1e-3 1e-2 0.1 0.3 1 3 10 100".split()])
    print(f"{count} rows of {PER_ROW} features, 2^{BITS} weights; shortest of {TURNS} turns")
    for label, (seconds, loss, _) in best.items():
        print(f"{label:45} {count / seconds:9.0f} rows/s   progressive loss {loss:.5f}")
    print(f"{'unbend, 8 rates in one pass':45} {count / sweep[0]:9.0f} rows/s   progressive loss {sweep[1]:.5f}")
    seconds, loss, _ = best.pop("unbend")
    speed = min(other[0] for other in best.values()) / seconds
    least = min(other[1] for other in best.values())
    print(f"speed over the fastest Vowpal Wabbit {speed:.2f} (bar 1.0); loss {loss:.5f}, least of theirs {least:.5f}")
    passed = speed >= 1 and loss <= least
    print("pass" if passed else "MISS")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
