"""Where the wall time of a run went: its goodput.

At any moment one kind of work is going on, and the time is its; so the kinds add up to
the wall time. Each attempt (from the start of a process to its end) has a small file
`goodput/NNNN.json`, rewritten every few seconds by a thread, so that a kill loses no
more; what lies between the last writing of one attempt and the start of the next counts
as `down`.
"""

import json
import sys
import threading
import time
from collections import Counter
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
_WRITE_EVERY = 5.0  # seconds
_WRITE_EVERY_REMOTELY = 60.0  # to a bucket


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
        number = self._before[-1]["attempt"] + 1 if self._before else 0
        self._name = f"goodput/{number:04d}.json"
        self.ended = "finished"
        started = psutil.Process().create_time()
        self.attempt: dict[str, Any] = {
            "attempt": number,
            "started": started,
            "written": started,
            "step": None,
            "ended": "cut off",  # as long as nothing else is known
            "seconds": dict.fromkeys(KINDS, 0.0),
        }
        self._kind = "init"
        self._since = time.monotonic() - (time.time() - started)
        # A thread writes while the training switches: one at a time.
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True)

    def switch(self, kind: str) -> str:
        """From now on it is this kind of work; returns what it was."""
        with self._lock:
            now = time.monotonic()
            self.attempt["seconds"][self._kind] += now - self._since
            before, self._kind, self._since = self._kind, kind, now
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
        self.attempt["step"] = step

    def __enter__(self) -> "Ledger":
        if processes.is_first():
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.attempt["ended"] = "failed" if kind else self.ended
        if processes.is_first():
            self._over.set()
            self._thread.join()
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

    def _keep_writing(self) -> None:
        """Until the attempt is over; training goes on if it cannot be written."""
        over, warned, copied = False, False, time.monotonic()
        while True:
            try:
                self._write()
                if time.monotonic() - copied > _WRITE_EVERY_REMOTELY:
                    copied = time.monotonic()
                    self._folder.copy_file(self._name)
            except Exception as error:  # clients of buckets raise their own
                if not warned:
                    processes.say(f"GOODPUT CANNOT BE WRITTEN: {error}")
                warned = True
            if over:
                return
            over = self._over.wait(_WRITE_EVERY)

    def _write(self) -> None:
        with self._lock:
            self.switch(self._kind)
            total = sum(self.attempt["seconds"].values())
            self.attempt["written"] = self.attempt["started"] + total
            text = json.dumps(self.attempt)
        file = self._folder.local / self._name
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(text + "\n")
        temporary.replace(file)


def _past(workdir: epath.Path) -> tuple[list[dict[str, Any]], int]:
    """Earlier attempts, and the last step that one of them has taken."""
    books = attempts(workdir)
    steps = [line["step"] for line in read_metrics(workdir)]
    steps += [book["step"] or 0 for book in books]
    return books, max(steps, default=0)


def attempts(workdir: str | epath.Path) -> list[dict[str, Any]]:
    """The attempts of a run so far, in order, without those that cannot be read."""
    folder = open_path(str(workdir)) / "goodput"
    if not folder.exists():
        return []
    books = []
    for file in sorted(f for f in folder.iterdir() if f.suffix == ".json"):
        try:
            books.append(json.loads(file.read_text()))
        except ValueError:
            print(f"{file} is damaged: goodput leaves it out", file=sys.stderr)
    return books


def summarize(books: list[dict[str, Any]]) -> dict[str, Any]:
    """Wall time of a run by kind of work, from the first start to the last writing.

    Args:
      books: of `attempts`.

    Returns:
      `wall` and `seconds` by kind, which add up to it; `goodput`, the part of steps
      that count; the number of `attempts`, and how many `ended` how.
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
        "ended": dict(Counter(book["ended"] for book in books)),
        "wall": wall,
        "goodput": seconds["step"] / wall if wall else 0.0,
        "seconds": seconds,
    }


def format_summary(summary: dict[str, Any]) -> str:
    """The same as a table for people."""
    wall = summary["wall"]
    ends = ", ".join(f"{n} {how}" for how, n in summary["ended"].items())
    lines = [
        f"goodput      {100 * summary['goodput']:.1f} % of {_duration(wall)} in "
        f"{summary['attempts']} attempt{'s'[: summary['attempts'] != 1]} ({ends})"
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
