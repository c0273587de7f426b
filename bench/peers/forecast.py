"""N-BEATS beside neuralforecast (training), and zero-shot forecasts beside statsforecast's ETS and Theta (accuracy, time).

Training: `unbend forecast fit` and neuralforecast's NBEATS on series of the same lengths, at equal batch, window, width,
layers, blocks, type (float32) and threads, in turns. neuralforecast's block is one linear layer, then layers with ReLU, then
the output: with one unit pair less in `mlp_units` its products are exactly ours. Both are timed between two numbers of steps,
so that starting does not count; with one thread the time is the processor's, which other programs disturb less. Bar: 2 times
the samples per second. Beside it stands what the bar can be at most: both programs spend most of their time in the same BLAS,
so the peer's rate against the rate at which products alone would run at the machine's measured peak.

Usage: forecast.py UNBEND [--threads N] [--turns N] [--skip-wide] (with the Python of .venv, after tools/setup.sh torch series
forecasting)
"""
import argparse
import csv
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter, process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build/third_party/forecasting")]
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from neuralforecast import NeuralForecast  # noqa: E402
from neuralforecast.losses.pytorch import SMAPE  # noqa: E402
from neuralforecast.models import NBEATS  # noqa: E402
from statsforecast.models import AutoETS, Theta  # noqa: E402

HORIZON, LOOKBACK, BAR = 18, 3, 2.0
#            name                        width blocks layers batch shared steps
CASES = [("10 shared blocks of 3 x 128", 128, 10, 3, 128, True, 60),
         ("the same, batch 1024", 128, 10, 3, 1024, True, 15),
         ("30 blocks of 4 x 512, batch 1024", 512, 30, 4, 1024, False, 1)]


def read_rows(path):
    with open(path, newline="") as file:
        return {row[0]: np.array([float(v) for v in row[1:] if v]) for row in list(csv.reader(file))[1:]}


def theirs(frame, case, steps):
    _, width, blocks, layers, batch, shared, _ = case
    model = NBEATS(h=HORIZON, input_size=LOOKBACK * HORIZON, stack_types=["identity"] if shared else ["identity"] * blocks,
                   n_blocks=[blocks] if shared else [1] * blocks, mlp_units=(layers - 1) * [[width, width]],
                   shared_weights=shared, loss=SMAPE(), max_steps=steps, windows_batch_size=batch, batch_size=32,
                   random_seed=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                   enable_model_summary=False)
    forecast = NeuralForecast(models=[model], freq=1)
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    start = clock()
    forecast.fit(frame)
    return clock() - start


def children_time():
    """User and system, as process_time counts for the peer."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(unbend, source, case, steps, threads):
    _, width, blocks, layers, batch, shared, _ = case
    command = [unbend, "forecast", "fit", source, "--frequency", "monthly", "--lookbacks", LOOKBACK, "--losses", "smape",
               "--width", width, "--blocks", blocks, "--layers", layers, "--batch", batch, "--iterations", steps,
               "--calibration", 0, "--history", 20, "--threads", threads, "--out", Path(source).parent / "m.safetensors",
               "--quiet", "--json"] + ([] if shared else ["--separate"])
    before = children_time()
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return children_time() - before if threads == 1 else json.loads(run.stdout)["seconds"]


def flops(case):
    """Of the products of one sample, forward and backward."""
    _, width, blocks, layers, _, _, _ = case
    return 6 * blocks * width * (LOOKBACK * HORIZON + (layers - 1) * width + (LOOKBACK + 1) * HORIZON)


def peak():
    """FLOP/s of a large float32 product, with torch's threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(8):
        start = perf_counter()
        a @ b
        times.append(perf_counter() - start)
    return 2 * 2048**3 / min(times)


def per_step(run, steps):
    short = run(steps)
    return (run(3 * steps) - short) / (2 * steps)


def training(unbend, threads, turns, cases):
    missed = False
    print(f"training, window {LOOKBACK * HORIZON}, horizon {HORIZON}, float32, {threads} thread(s); shortest of {turns} turns")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.csv"
        subprocess.run([unbend, "forecast", "sample", "--count", "2000", "--frequency", "monthly", "--out", source], check=True,
                       capture_output=True)
        rows = read_rows(source)
        frame = pd.concat([pd.DataFrame({"unique_id": k, "ds": np.arange(len(v)), "y": v.astype(np.float32)})
                           for k, v in rows.items()], ignore_index=True)
        for case in cases:
            name, batch, steps = case[0], case[4], case[6]
            times = {"unbend": [], "neuralforecast": []}
            theirs(frame, case, 1)  # a cold first run would count for less than it took: it is subtracted
            for _ in range(turns):
                times["unbend"].append(per_step(lambda n: ours(unbend, source, case, n, threads), 4 * steps))
                times["neuralforecast"].append(per_step(lambda n: theirs(frame, case, n), steps))
            rates = {k: batch / min(v) for k, v in times.items()}
            most = peak() / flops(case)
            ratio = rates["unbend"] / rates["neuralforecast"]
            missed |= ratio < BAR
            print(f"{name}: " + ", ".join(f"{k} {v:.0f} samples/s" for k, v in rates.items())
                  + f"; ratio {ratio:.2f} (bar {BAR:g}: {'pass' if ratio >= BAR else 'MISS'}), "
                  f"at most {most / rates['neuralforecast']:.2f} at the peak, of which unbend reaches {rates['unbend'] / most:.0%}, "
                  f"neuralforecast {rates['neuralforecast'] / most:.0%}", flush=True)
    return missed


def smape(actual, forecast):
    return np.mean(200 * np.abs(forecast - actual) / (np.abs(forecast) + np.abs(actual)))


def accuracy(unbend):
    print("\nlast horizon of real series: sMAPE (%), and seconds for all of them")
    for frequency, period, horizon, files in (("monthly", 12, 18, ["monthly", "monthly_more", "employment"]),
                                              ("quarterly", 4, 8, ["quarterly", "quarterly_more"])):
        for name in files:
            path = ROOT / f"build/data/series/{name}.csv"
            run = subprocess.run([unbend, "forecast", "evaluate", path, "--model", ROOT / f"data/forecast/{frequency}.safetensors",
                                  "--json"], capture_output=True, text=True, check=True)
            found = {m["method"]: (m["smape"], m["seconds"]) for m in json.loads(run.stdout)["methods"]}
            rows = read_rows(path)
            for label, model in (("statsforecast ETS", AutoETS(season_length=period)), ("statsforecast Theta", Theta(season_length=period))):
                start = perf_counter()
                scores = [smape(v[-horizon:], model.forecast(y=v[:-horizon], h=horizon)["mean"]) for v in rows.values()]
                found[label] = (np.mean(scores), perf_counter() - start)
            print(f"{name} ({len(rows)} series): " + ", ".join(f"{k} {v[0]:.3f} ({v[1]:.2f} s)" for k, v in found.items()), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("unbend")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--skip-wide", action="store_true", help="leave out the network of 30 x 512")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    missed = training(arguments.unbend, arguments.threads, arguments.turns, CASES[:2] if arguments.skip_wide else CASES)
    accuracy(arguments.unbend)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
