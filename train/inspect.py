"""What is in a run's folder, and is it whole."""

import json
import pathlib
from typing import Any

from pipeline.errors import UserError
from train.checkpoint import Checkpoints
from train.metrics import read_metrics


def describe(workdir: str) -> dict[str, Any]:
    """Steps, checkpoints and last metrics of a run; `whole` if training is finished.

    Raises:
      UserError: if `workdir` holds no run.
    """
    folder = pathlib.Path(workdir)
    if not (folder / "config.json").exists():
        raise UserError(f"{workdir} holds no run: no config.json in it")
    config = json.loads((folder / "config.json").read_text())
    metrics = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    with Checkpoints(folder, keep=None) as checkpoints:
        steps = checkpoints.steps
    return {
        "workdir": str(folder),
        "data": config["data"]["store"],
        "data_fingerprint": config["data_fingerprint"],
        "mesh": config["mesh"],
        "steps": config["train"]["steps"],
        "checkpoints": steps,
        "training": next((m for m in reversed(metrics) if "loss" in m), None),
        "evaluation": next((m for m in reversed(metrics) if "eval_loss" in m), None),
        "whole": bool(steps) and steps[-1] >= config["train"]["steps"],
    }


def format_description(description: dict[str, Any]) -> str:
    """The same for people."""
    d = description
    mesh = ", ".join(f"{axis}={size}" for axis, size in d["mesh"].items())
    lines = [
        f"run          {d['workdir']}",
        f"data         {d['data']} ({d['data_fingerprint'][:12]})",
        f"mesh         {mesh}",
        f"checkpoints  {', '.join(map(str, d['checkpoints'])) or 'none yet'}"
        f" (training ends at {d['steps']})",
    ]
    for name, key in [("training", "loss"), ("evaluation", "eval_loss")]:
        if d[name]:
            lines.append(f"{name:12s} step {d[name]['step']}: {key} {d[name][key]:.5g}")
    lines.append("whole" if d["whole"] else "not finished: run the same command again")
    return "\n".join(lines)
