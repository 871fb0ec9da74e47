"""Where the wall time of a run went: its goodput.

At any moment one kind of work is going on, and the time is its; so the kinds add up to
the wall time. Each attempt (from the start of a process to its end) has a small file
`goodput/NNNN.json`, rewritten every few seconds, so that a kill loses no more; what
lies between the last writing of one attempt and the start of the next counts as `down`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from etils import epath

from train import processes
from train.folder import RunFolder, open_path
from train.metrics import read_metrics

KINDS = {
    "step": "training steps that count",
    "recompute": "steps done before, lost by a kill",
    "data": "waiting for data",
    "save": "blocked by checkpoints",
    "evaluation": "evaluation",
    "compile": "tracing and compiling",
    "restore": "reading checkpoints",
    "init": "imports, joining, tables, calibration",
    "down": "between attempts",
}
_WRITE_EVERY = 5.0  # seconds; a bucket is written to with every checkpoint


class Ledger:
    """Books the time of this attempt, from the start of this process, as a context.

    Process 0's is written.

    Attributes:
      reached: the last step that an earlier attempt has taken; what is not beyond it is
        done again.
      ended: how the attempt ends if there is no exception.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._before, self.reached = processes.on_first(
            "ledger", lambda: _past(folder.path)
        )
        number = len(self._before)
        self._name = f"goodput/{number:04d}.json"
        self.ended = "finished"
        started = psutil.Process().create_time()
        self.attempt: dict[str, Any] = {
            "attempt": number,
            "started": started,
            "written": started,
            "processes": processes.count(),
            "first_step": None,
            "step": None,
            "ended": None,
            "seconds": dict.fromkeys(KINDS, 0.0),
        }
        self._kind = "init"
        self._since = time.monotonic() - (time.time() - started)
        self._written = 0.0
        self.write()

    def switch(self, kind: str) -> str:
        """From now on it is this kind of work; returns what it was."""
        now = time.monotonic()
        self.attempt["seconds"][self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        if now - self._written > _WRITE_EVERY:
            self.write()
        return before

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """It is this kind of work within the block."""
        before = self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def reach(self, step: int) -> None:
        """A step was taken."""
        if self.attempt["first_step"] is None:
            self.attempt["first_step"] = step
        self.attempt["step"] = step

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.attempt["ended"] = "failed" if kind else self.ended
        self.write()
        self._folder.copy()

    def shares(self) -> dict[str, float]:
        """Percent of the run's wall time by kind of work, named `goodput/...`."""
        self.switch(self._kind)
        now = self.attempt["started"] + sum(self.attempt["seconds"].values())
        summary = summarize([*self._before, {**self.attempt, "written": now}])
        return {
            f"goodput/{kind}_percent": 100 * seconds / summary["wall"]
            for kind, seconds in summary["seconds"].items()
        }

    def write(self) -> None:
        self._written = time.monotonic()
        if not processes.is_first():
            return
        # With what the present kind has used so far, so that the sum is up to date.
        seconds = dict(self.attempt["seconds"])
        seconds[self._kind] += self._written - self._since
        written = self.attempt["started"] + sum(seconds.values())
        file = self._folder.local / self._name
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_suffix(".tmp")
        text = json.dumps({**self.attempt, "written": written, "seconds": seconds})
        temporary.write_text(text + "\n")
        temporary.replace(file)


def _past(workdir: epath.Path) -> tuple[list[dict[str, Any]], int]:
    """Earlier attempts, and the last step that one of them has taken."""
    books = attempts(workdir)
    steps = [line["step"] for line in read_metrics(workdir)]
    steps += [book["step"] or 0 for book in books]
    return books, max(steps, default=0)


def attempts(workdir: str | epath.Path) -> list[dict[str, Any]]:
    """The attempts of a run so far, in order."""
    folder = open_path(str(workdir)) / "goodput"
    if not folder.exists():
        return []
    files = sorted(f for f in folder.iterdir() if f.suffix == ".json")
    return [json.loads(file.read_text()) for file in files]


def summarize(books: list[dict[str, Any]]) -> dict[str, Any]:
    """Wall time of a run by kind of work, from the first start to the last writing.

    Args:
      books: of `attempts`.

    Returns:
      `wall` and `seconds` by kind, which add up to it; `goodput`, the part of steps
      that count; and the number of `attempts`.
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    for book in books:
        for kind, value in book["seconds"].items():
            seconds[kind] += value
    for before, after in zip(books, books[1:], strict=False):
        seconds["down"] += after["started"] - before["written"]
    wall = books[-1]["written"] - books[0]["started"] if books else 0.0
    return {
        "attempts": len(books),
        "wall": wall,
        "goodput": seconds["step"] / wall if wall else 0.0,
        "seconds": seconds,
    }


def format_summary(summary: dict[str, Any]) -> str:
    """The same as a table for people."""
    wall = summary["wall"]
    lines = [
        f"goodput      {100 * summary['goodput']:.1f} % of {_duration(wall)} in "
        f"{summary['attempts']} attempt{'s'[: summary['attempts'] != 1]}"
    ]
    for kind, seconds in summary["seconds"].items():
        if seconds:
            share = 100 * seconds / wall if wall else 0.0
            lines.append(
                f"  {kind:11}{_duration(seconds):>12} {share:5.1f} %  {KINDS[kind]}"
            )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d " * bool(days) + f"{hours}:{minutes:02d}:{seconds:02d}"
