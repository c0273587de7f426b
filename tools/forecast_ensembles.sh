#!/usr/bin/env bash
# Trains the ensembles of data/forecast and writes their logs: what `unbend forecast fit` prints, then their scores on
# the real series of tools/setup.sh series. About five minutes of one core. Usage: forecast_ensembles.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-data/forecast}
mkdir -p "$OUT"
make_ensemble() {  # FREQUENCY ITERATIONS, then the files to score it on
  local frequency=$1 iterations=$2 model=$OUT/$1.safetensors
  shift 2
  {
    build/unbend forecast fit --synthetic 5000 --frequency "$frequency" --iterations "$iterations" --lookbacks 2,3,4 \
      --losses smape,mase --history 20 --rate 0.002 --half --threads 1 --quiet --out "$model"
    for name in "$@"; do
      echo
      echo "$name.csv"
      build/unbend forecast evaluate "build/data/series/$name.csv" --model "$model"
    done
  } >"$OUT/$frequency.log"
}
make_ensemble monthly 8000 monthly monthly_more employment
make_ensemble quarterly 3000 quarterly quarterly_more
