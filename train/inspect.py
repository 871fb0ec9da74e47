"""What is in a run's folder, and is it whole."""

import json
from typing import Any

from pipeline.errors import UserError
from train import checkpoint, ledger
from train.folder import open_path
from train.metrics import read_metrics


def describe(workdir: str) -> dict[str, Any]:
    """Steps, checkpoints and last metrics of a run; `whole` if training is finished.

    Raises:
      UserError: if `workdir` holds no run.
    """
    folder = open_path(workdir)
    if not (folder / "config.json").exists():
        raise UserError(f"{workdir} holds no run: no config.json in it")
    config = json.loads((folder / "config.json").read_text())
    metrics = read_metrics(folder)
    steps = checkpoint.steps(folder)
    damaged = folder / "damaged"
    return {
        "workdir": str(folder),
        "data": config["data"]["store"],
        "data_fingerprint": config["data_fingerprint"],
        "imported_from": config.get("imported_from"),
        "mesh": config["mesh"],
        "steps": config["train"]["steps"],
        "checkpoints": steps,
        "training": next((m for m in reversed(metrics) if "loss" in m), None),
        "evaluation": next((m for m in reversed(metrics) if "eval_loss" in m), None),
        "damaged": sorted(x.stem for x in damaged.glob("*.txt"))
        if damaged.exists()
        else [],
        "goodput": ledger.summarize(ledger.attempts(folder)),
        "whole": bool(steps)
        and ("imported_from" in config or steps[-1] >= config["train"]["steps"]),
    }


def format_description(description: dict[str, Any]) -> str:
    """The same for people."""
    d = description
    mesh = ", ".join(f"{axis}={size}" for axis, size in d["mesh"].items())
    lines = [
        f"run          {d['workdir']}",
        f"imported     from {d['imported_from']}"
        if d["imported_from"]
        else f"data         {d['data']} ({d['data_fingerprint'][:12]})",
        f"mesh         {mesh}",
        f"checkpoints  {', '.join(map(str, d['checkpoints'])) or 'none yet'}"
        f" (training ends at {d['steps']})",
    ]
    for name, key in [("training", "loss"), ("evaluation", "eval_loss")]:
        if d[name]:
            lines.append(f"{name:12s} step {d[name]['step']}: {key} {d[name][key]:.5g}")
    if d["damaged"]:
        lines.append(f"damaged      {', '.join(d['damaged'])} (set aside in damaged/)")
    if d["goodput"]["attempts"]:
        lines.append(ledger.format_summary(d["goodput"]))
    if d["imported_from"]:
        lines.append("weights to forecast or train from")
    else:
        lines.append(
            "whole" if d["whole"] else "not finished: run the same command again"
        )
    return "\n".join(lines)
