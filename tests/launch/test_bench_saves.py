"""How long checkpoints block."""

import argparse

import pytest

from launch.benchmarks import saves
from pipeline.errors import UserError


def test_steps_go_on_while_a_state_is_saved(tmp_path):
    figures = saves.run(argparse.Namespace(megabytes=8, rounds=1, folder=str(tmp_path)))
    assert figures["steps_meanwhile"] >= 1
    assert not list(tmp_path.iterdir())


def test_nothing_to_save_is_a_mistake():
    with pytest.raises(UserError, match="--megabytes=0 must be at least 1"):
        saves.run(argparse.Namespace(megabytes=0, rounds=1, folder=None))
