"""What training makes of the sample planet: skill, hidden physics, calm beginnings.

A curriculum (`configs/planet.py`) and, for about the same time, rollouts of 6 hours
alone. Forecasts of held-out days are scored beside the silenced model (its core alone)
and the oracle (with the planet's own physics).
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from configs import planet
from launch.benchmarks import make_folder
from launch.benchmarks.hidden_physics import compare_with_planet
from launch.benchmarks.initial_shock import compare_beginnings
from launch.report.evaluate import evaluate
from launch.sample import make_sample
from pipeline.preprocess import preprocess
from train import checkpoint
from train.config import load_config
from train.exit_codes import Failed
from train.forecast.request import Request
from train.forecast.run import forecast
from train.ledger import attempts, summarize

CURRICULUM = planet.__file__
# As long as the curriculum takes, which `seconds` of the result tells.
SIX_HOURS_STEPS = 560
SIX_HOURS = {
    "stages": "()",
    "train.steps": SIX_HOURS_STEPS,
    "optimizer.decay_steps": SIX_HOURS_STEPS,
}
STARTS = "2001-02-03/2001-02-07/12h"  # of forecasts
LEAD = 48  # h, of their last
VARIABLES = ("temperature", "u_component_of_wind", "v_component_of_wind")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains where that is not done, and measures.

    Returns:
      By run the `seconds` of training by kind; root mean square errors after 24 h; the
      gap between silenced and oracle that is closed; correlations with the planet's
      `hidden_physics`; and the `shock` at the beginning of forecasts.

    Raises:
      UserError: if the folder cannot be used.
      Failed: if training fails.
    """
    folder = make_folder(args.output)
    store = make_data(folder)
    runs = {"curriculum": {}, "six_hours": SIX_HOURS}
    seconds = {
        name: train(folder / name, CURRICULUM, {"data.store": store, **options})
        for name, options in runs.items()
    }
    forecasts = {"silenced": ("curriculum", "none"), "oracle": ("curriculum", "oracle")}
    forecasts |= {name: (name, "learned") for name in runs}
    for name, (workdir, physics) in forecasts.items():
        forecast(
            Request(
                workdir=str(folder / workdir),
                init=STARTS,
                output=str(folder / f"{name}.zarr"),
                lead=f"{LEAD}h",
                physics=physics,
            )
        )
    labels = [f"{name}={folder / name}.zarr" for name in forecasts]
    scores, table = evaluate(labels, store, str(folder / "scores"))
    print(table, file=sys.stderr)
    curriculum = str(folder / "curriculum")
    result = {
        "seconds": seconds,
        "rmse_24h": rmse(scores, 24),
        "gap_closed_24h": {name: gaps_closed(scores, name, 24) for name in runs},
        "hidden_physics": compare_with_planet(
            curriculum, store, str(folder / "planet.zarr"), folder
        ),
        "shock": compare_beginnings(curriculum, store, folder),
    }
    (folder / "figures.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def make_data(folder: pathlib.Path) -> str:
    """The demo's planet and store, in its places; made if they are missing."""
    planet, store = folder / "planet.zarr", folder / "tl31"
    if not planet.exists():
        make_sample(str(planet))
    window = "2001-01-01/2001-02-01"
    preprocess(str(planet), str(store), "TL31", stats_times=window, shard_steps=16)
    return str(store)


def train(
    workdir: pathlib.Path, config: str, options: dict[str, Any]
) -> dict[str, float]:
    """Trains in a process of its own, or goes on; returns the seconds by kind.

    Raises:
      Failed: if that fails.
    """
    overrides = [f"{name}={value}" for name, value in options.items()]
    steps = load_config(config, overrides).train.steps
    if checkpoint.steps(workdir)[-1:] != [steps]:
        command = [sys.executable, "-m", "launch.cli", "train", f"--config={config}"]
        command += [f"--workdir={workdir}", *(f"--config.{x}" for x in overrides)]
        code = subprocess.run(command, check=False).returncode
        if code:
            raise Failed(f"training in {workdir} ended with {code}")
    summary = summarize(attempts(str(workdir)))
    seconds = {kind: round(x, 1) for kind, x in summary["seconds"].items() if x}
    return {"all": round(summary["wall"], 1), **seconds}


def rmse(scores: dict[str, Any], lead: int) -> dict[str, dict[str, float]]:
    """By forecast, and by variable and level, in SI units."""
    place = scores["lead_hours"].index(lead)
    return {
        label: {
            f"{name} {level:g} hPa": fields[name]["rmse"][place][k]
            for name in (*VARIABLES, "geopotential")
            for k, level in enumerate(scores["levels_hpa"])
            if level in (850, 500, 250)
        }
        for label, fields in scores["scores"].items()
    }


def gaps_closed(scores: dict[str, Any], label: str, lead: int) -> dict[str, float]:
    """(silenced - trained) / (silenced - oracle), of errors at 850 hPa."""
    errors = rmse(scores, lead)
    closed = {}
    for name in VARIABLES:
        key = f"{name} 850 hPa"
        silenced, trained, oracle = (
            errors[x][key] for x in ("silenced", label, "oracle")
        )
        closed[key] = (silenced - trained) / (silenced - oracle)
    return closed
