"""Metrics of a run: lines of JSON for machines, TensorBoard for people."""

import json
from collections.abc import Mapping

from etils import epath

from train import processes
from train.folder import RunFolder, open_path
from train.tensorboard import Events

METRICS = "metrics.jsonl"


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and to TensorBoard events, from process 0.

    What came after the checkpoint from which a run goes on is dropped when it opens, so
    that every line is there once, whatever was killed.
    """

    def __init__(self, folder: RunFolder, resume_step: int, evaluated: bool) -> None:
        """
        Args:
          folder: of the run.
          resume_step: of the checkpoint.
          evaluated: whether it was saved after the evaluation of that step.
        """
        self._file = self._tensorboard = None
        if not processes.is_first():
            return
        path = folder.local / METRICS
        folder.fetch(METRICS)
        kept = [
            line
            for line in read_metrics(folder.local)
            if line["step"] < resume_step
            or (line["step"] == resume_step and (evaluated or "eval_loss" not in line))
        ]
        replacement = path.with_suffix(".tmp")
        replacement.write_text("".join(json.dumps(line) + "\n" for line in kept))
        replacement.replace(path)
        self._file = path.open("a")
        events = str(folder.local / "tensorboard")
        self._tensorboard = Events(events, purge_step=resume_step + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._tensorboard.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line; equal runs write equal lines."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        self.show(step, scalars)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """To TensorBoard only: what differs from run to run, such as times."""
        if self._tensorboard is not None:
            self._tensorboard.show(step, scalars)

    def flush(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.flush()


def read_metrics(workdir: str | epath.Path) -> list[dict[str, float]]:
    """All whole lines of a run's metrics; a line cut off by a kill is left out."""
    file = open_path(str(workdir)) / METRICS
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
