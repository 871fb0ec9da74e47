"""Runs of `podgcm pod` that tests watch and disturb."""

import json
import pathlib

from launch.benchmarks.watched_pod import WatchedPod, differing_arrays


class Pod(WatchedPod):
    """A pod whose lines are shown when a test fails."""

    def until_step(self, step):
        """Waits for the line of a step in the metrics."""
        self.until(lambda: self.step() >= step)

    def end(self, minutes=10):
        """Waits for the end; the pod's exit code."""
        code = super().end(minutes)
        print(self.log)
        return code


def losses(workdir):
    """By step."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_equal_runs(workdir, expected, step):
    """Same metrics and same bits of the final state."""
    got, wanted = ((x / "metrics.jsonl").read_text() for x in (workdir, expected))
    assert got == wanted
    assert differing_arrays(workdir, expected, step) == 0
