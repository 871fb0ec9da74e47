#!/usr/bin/env bash
# The whole way on this machine: a sample planet, preprocessing, training on 8 virtual
# devices, forecasts, scores and pictures. Makes .venv if it is missing.
# Usage: bash launch/demo.sh [FOLDER]     (default demo; what is done is not redone)
set -euo pipefail
OUT=$(realpath -m "${1:-demo}")
export JAX_PLATFORMS=cpu  # whatever else this machine has
EXTRAS=
source "$(dirname "$0")/environment.sh"
mkdir -p "$OUT"
step() { printf '\n== %s  (%d s)\n' "$1" "$SECONDS"; }

step "1/5 the sample planet: podgcm sample"
[ -e "$OUT/planet.zarr" ] || podgcm sample "$OUT/planet.zarr"

step "2/5 regridding to TL31: podgcm preprocess"
podgcm preprocess --source="$OUT/planet.zarr" --output="$OUT/tl31" --grid=TL31 \
  --stats_times=2001-01-01/2001-02-01 --shard_steps=16

step "3/5 training on a mesh of 8 virtual devices: podgcm train"
JAX_NUM_CPU_DEVICES=8 podgcm train --config=configs/demo.py \
  --config.data.store="$OUT/tl31" --workdir="$OUT/run"

step "4/5 forecasts of held-out days: podgcm forecast"
for physics in learned none oracle; do
  podgcm forecast --workdir="$OUT/run" \
    --init=2001-02-03/2001-02-08/12h --lead=24 --physics=$physics \
    --output="$OUT/forecast-$physics.zarr"
done

step "5/5 scores and pictures: podgcm evaluate"
podgcm evaluate --truth="$OUT/tl31" --output="$OUT/scores" \
  --report="$OUT/report.html" --workdir="$OUT/run" \
  --forecast=silenced="$OUT/forecast-none.zarr" \
  --forecast=trained="$OUT/forecast-learned.zarr" \
  --forecast=oracle="$OUT/forecast-oracle.zarr"

cat <<END

Done in $SECONDS s. All of it is simulated data.
  sample planet   $OUT/planet.zarr
  training store  $OUT/tl31           (podgcm inspect $OUT/tl31)
  run             $OUT/run            (podgcm inspect $OUT/run; tensorboard --logdir $OUT/run)
  forecasts       $OUT/forecast-*.zarr
  scores          $OUT/scores/scores.txt, scores.csv, scores.json, pictures
  all on a page   $OUT/report.html
END
