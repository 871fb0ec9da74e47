"""The count of what kills cost."""

import argparse

import pytest

from launch.benchmarks import kills


def test_lines_that_are_missing_repeated_or_different_are_lost():
    lines = ["a", "b", "c"]
    assert kills.lost(lines, lines) == 0
    assert kills.lost(lines, ["a", "c"]) == 1
    assert kills.lost(lines, ["a", "b", "b", "c"]) == 1
    assert kills.lost(lines, ["a", "x", "c"]) == 1
    assert kills.lost(lines, []) == 3


def test_steps_that_are_run_again_are_counted_once():
    def attempt(number, said, compiled=True):
        return [
            f"pod: attempt {number}: 2 processes x 1 devices, pids 1 2",
            f"[0] {said} of 9: 1 parameters",
            *(["[0] compiled in 1 s"] if compiled else []),
        ]

    lines = attempt(0, "training from step 0")
    lines += attempt(1, "resuming at step 4", compiled=False)
    lines += attempt(2, "resuming at step 4")
    assert kills.recomputed(lines, reached=[5, 5]) == 1
    lines += attempt(3, "resuming at step 6")
    assert kills.recomputed(lines, reached=[5, 5, 9]) == 1 + 3


@pytest.mark.slow
def test_nothing_is_lost_by_a_kill(tmp_path):
    arguments = argparse.Namespace(count=1, processes=2, seed=1, folder=str(tmp_path))
    figures = kills.run(arguments)
    print(figures)
    assert figures["kills"] == 1 and figures["lost"] == figures["altered"] == 0
    assert figures["recomputed"] <= figures["save_every"] + 1
