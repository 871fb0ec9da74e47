"""Forecasts at scale: how long they take, that kills cost nothing, and their memory.

Of a run on the sample planet (`launch/demo.sh`, `podgcm bench learning`): many initial
times, once undisturbed and once killed half-way; long forecasts beside short ones; and
a climate run. Every forecast is a process of its own.
"""

import argparse
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import matplotlib
import numpy as np
import xarray

from launch.benchmarks import make_folder
from pipeline.errors import UserError
from train.exit_codes import Failed

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

_SHORT, _LONG = 5, 60  # days, whose memory is compared


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the forecasts and measures them.

    Returns:
      `many`: seconds of all, with compilation, and simulated days an hour; `equal`,
      whether the killed one has the same bytes; `peak_memory_mib` by days, and their
      `memory_ratio`; `climate`: seconds, whether it stayed finite or until when, and
      drifts of the means.

    Raises:
      UserError: if an argument makes no sense.
      Failed: if a forecast fails.
    """
    if args.times < 1 or args.days < 1 or args.years < 0:
        raise UserError("--times and --days must be at least 1, --years at least 0")
    folder = make_folder(args.output)
    result: dict[str, Any] = {"case": _case(args)}
    span = f"{args.first}/{_after(args.first, args.times - 1)}/6h"
    many = [f"--init={span}", f"--lead={args.days}d", f"--batch={args.batch}"]
    whole, killed = folder / "many.zarr", folder / "killed.zarr"
    for path in (whole, killed):
        shutil.rmtree(path, ignore_errors=True)
    seconds, _ = _forecast(args.workdir, whole, many)
    result["many"] = {
        "seconds": round(seconds, 1),
        "simulated_days_per_hour": round(args.times * args.days / seconds * 3600),
    }
    _kill_half_way(args.workdir, killed, many, seconds / 2)
    _forecast(args.workdir, killed, many)
    result["equal"] = _bytes(whole) == _bytes(killed)
    peaks: dict[str, float] = {}
    for days in (_SHORT, _LONG):
        path = folder / f"{days}_days.zarr"
        shutil.rmtree(path, ignore_errors=True)
        flags = [f"--init={args.first}", f"--lead={days}d"]
        _, peaks[str(days)] = _forecast(args.workdir, path, flags)
    result["peak_memory_mib"] = peaks
    result["memory_ratio"] = round(peaks[str(_LONG)] / peaks[str(_SHORT)], 3)
    if args.years:
        result["climate"] = _climate(args, folder)
    (folder / "figures.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _case(args: argparse.Namespace) -> dict[str, Any]:
    names = ("first", "times", "days", "batch", "years")
    return {name: getattr(args, name) for name in names}


def _after(first: str, steps: int) -> str:
    return str(np.datetime64(first, "h") + 6 * steps)


def _command(workdir: str, output: pathlib.Path, flags: list[str]) -> list[str]:
    command = [sys.executable, "-m", "launch.cli", "forecast"]
    return [*command, f"--workdir={workdir}", f"--output={output}", *flags]


def _forecast(
    workdir: str, output: pathlib.Path, flags: list[str]
) -> tuple[float, float]:
    """Seconds, and peak of its memory in MiB; blown up or not, it costs the same."""
    begun, peak = time.monotonic(), 0.0
    process = subprocess.Popen(_command(workdir, output, flags))
    while process.poll() is None:
        peak = max(peak, _peak_mib(process.pid))
        time.sleep(0.1)
    root = output / "zarr.json"
    if not (root.exists() and json.loads(root.read_text())["attributes"]["finished"]):
        raise Failed(f"the forecast {output} ended with {process.returncode}")
    return time.monotonic() - begun, peak


def _peak_mib(pid: int) -> float:
    """Of a process until now. (What `wait` tells of its end is its parent's too.)"""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0  # none of one that has just ended


def _kill_half_way(
    workdir: str, output: pathlib.Path, flags: list[str], seconds: float
) -> None:
    process = subprocess.Popen(_command(workdir, output, flags))
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def _climate(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """A long run of means of months: its drifts, as numbers and a picture."""
    path = folder / "climate.zarr"
    shutil.rmtree(path, ignore_errors=True)
    flags = [f"--init={args.first}", f"--lead={args.years}y", "--mean=month"]
    begun = time.monotonic()
    code = subprocess.run(_command(args.workdir, path, flags), check=False).returncode
    found = xarray.open_zarr(path, consolidated=False, decode_timedelta=False)
    finite = found.finite.values[0] == 1
    days = found.prediction_timedelta.values / 24
    pressure = found.global_surface_pressure.values[0]
    energy = found.global_total_energy.values[0]
    good = np.flatnonzero(finite)
    _draw(days, pressure, energy, folder / "climate.png")
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "exit_code": code,
        "finite_until_day": float(days[good[-1]]) if good.size else None,
        "of_days": float(days[-1]),
        "mean_surface_pressure_drift_Pa": round(
            float(pressure[good[-1]] - pressure[1]), 3
        ),
        "total_energy_drift_MJ_m2": round(float(energy[good[-1]] - energy[1]) / 1e6, 3),
    }


def _draw(
    days: np.ndarray, pressure: np.ndarray, energy: np.ndarray, file: pathlib.Path
) -> None:
    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    axes[0].plot(days, pressure / 100, lw=0.8)
    axes[0].set_ylabel("mean surface pressure (hPa)")
    axes[1].plot(days, energy / 1e6, lw=0.8)
    axes[1].set_ylabel("mean total energy (MJ/m2)")
    axes[1].set_xlabel("day")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle("Drift of a climate run (SIMULATED planet)")
    figure.savefig(file, dpi=110)
    plt.close(figure)
