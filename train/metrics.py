"""Metrics of a run: lines of JSON for machines, TensorBoard for people."""

import json
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and to TensorBoard events in a run's folder.

    Lines after `resume_step` are dropped when it opens, so that a run that was killed
    and went on from a checkpoint has every step once.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int) -> None:
        self._path = workdir / "metrics.jsonl"
        kept = read_metrics(workdir) if self._path.exists() else []
        kept = [line for line in kept if line["step"] <= resume_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        replacement = self._path.with_suffix(".tmp")
        replacement.write_text(text)
        replacement.replace(self._path)
        self._file = self._path.open("a")
        self._tensorboard = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1
        )

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._tensorboard.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line; equal runs write equal lines."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        self.show(step, scalars)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """To TensorBoard only: what differs from run to run, such as times."""
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """All whole lines of a run's metrics; a line cut off by a kill is left out."""
    lines = []
    for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
