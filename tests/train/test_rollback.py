"""Going back after a divergence, and steps that data spoil."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import zarr

from launch.cli import main
from pipeline import writer
from pipeline.files import Folder
from pipeline.layout import shard_name
from pipeline.store import open_store
from train import checkpoint, rollback
from train.config import to_json
from train.metrics import read_metrics
from train.rollback import Rollback, obsolete, plan_rollback


def back(failed, to):
    return Rollback(failed, to, "it diverged", "2026-01-01T00:00:00Z")


def plan(past, failed, steps=(100, 200, 300, 400, 500), lookback=50, most=3):
    return plan_rollback(past, steps, failed, "it diverged", lookback, most)


def test_each_rollback_looks_back_further():
    past = []
    for to in (400, 400, 300):
        past.append(plan(past, 510))
        assert past[-1].to == to
    assert plan(past, 510) is None  # three times did not help
    # What was long ago does not count.
    assert plan(past, 510 + 3 * 50 + 1, steps=(100, 600)).to == 600


def test_the_oldest_checkpoint_or_the_beginning_is_taken():
    assert plan([], 120, steps=(100, 110)).to == 100
    assert plan([], 60, steps=(100, 110)).to == 0
    assert plan([], 60, steps=()).to == 0
    assert plan([], 60, most=0) is None


def test_what_a_rollback_makes_obsolete():
    orders = {100: 0, 200: 0, 300: 1, 400: 2}
    past = [back(250, 100), back(350, 300)]
    found = obsolete(past, orders)
    assert sorted(found) == [200]
    assert found[200] == "the run went back from it to step 100: it diverged"
    # 300 and 400 were saved after the rollback that would have left them behind.
    assert sorted(obsolete([*past, back(450, 100)], orders)) == [200, 300, 400]


@pytest.fixture
def run(tmp_path, make_tiny_config, capsys):
    """A function (changes) -> (exit code, what was told) of one attempt."""
    folder = tmp_path / "run"

    def attempt(**changes):
        config = make_tiny_config()
        config.data.frames, config.model.step_minutes = 2, 360
        config.train.steps, config.train.checkpoint_every = 8, 2
        config.train.eval_every = 8
        for name, value in changes.items():
            group, key = name.split("_", 1)
            config[group][key] = value
        file = tmp_path / "config.json"
        file.write_text(json.dumps(to_json(config)))
        arguments = ["train", f"--config={file}", f"--workdir={folder}"]
        with jax.enable_x64(False):
            try:
                main(arguments)
                code = 0
            except SystemExit as end:
                code = end.code
        return code, capsys.readouterr().err

    return folder, attempt


@pytest.mark.drill
def test_a_run_that_was_killed_while_it_went_back_goes_on_as_if_not(run):
    """The line is written, checkpoints are still where they were."""
    folder, attempt = run
    assert attempt(train_steps=6)[0] == 0
    rollback.record(folder, back(5, 2))
    code, told = attempt()
    assert code == 0
    assert "resuming at step 2 of 8" in told
    moved = sorted(x.name.split("-")[0] for x in (folder / "rolled_back").glob("*.txt"))
    assert moved == ["4", "6"]
    assert [line["step"] for line in read_metrics(folder) if "loss" in line] == [
        *range(1, 9)
    ]
    assert checkpoint.order_of(folder, 8) == 1
    # Once more: it is whole, and nothing is moved.
    code, told = attempt()
    assert code == 0 and "it was moved" not in told


@pytest.mark.slow
def test_another_order_after_a_rollback(run):
    folder, attempt = run
    assert attempt(train_steps=4)[0] == 0
    first = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    rollback.record(folder, back(3, 0))
    assert attempt(train_steps=4)[0] == 0
    second = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    assert len(first) == len(second) == 4 and first[0] != second[0]


@pytest.mark.drill
def test_a_damaged_list_of_rollbacks_is_told(run):
    folder, attempt = run
    assert attempt(train_steps=2)[0] == 0
    (folder / rollback.FILE).write_text("{\n")
    code, told = attempt()
    assert code == 2 and "rollbacks.jsonl is damaged" in told.splitlines()[-1]


@pytest.fixture
def poisoned_store(tiny_store, tmp_path):
    """A copy of the small store with an infinite temperature, in one chunk."""
    path = tmp_path / "poisoned"
    shutil.copytree(tiny_store.path, path)
    array = zarr.open_array(path / "temperature", mode="r+")
    array[5, 4, 3, 7] = np.inf
    # As if it had been written so: sizes and digests are those of the new bytes.
    folder, plan = Folder(str(path)), tiny_store.plan
    shard = 5 // plan.shard_steps
    content = folder.read(shard_name(plan, "temperature", shard))
    marker = writer.Marker.of(plan, "temperature", shard, content)
    name = writer.marker_name("temperature", shard)
    folder.write_json(name, dataclasses.asdict(marker))
    folder.write_json(writer.READY_FILE, writer.ready_content(folder, plan))
    assert not np.isfinite(
        open_store(str(path)).read("temperature", np.array([5]))
    ).all()
    return str(path)


@pytest.mark.drill
def test_poisoned_data_are_skipped_and_told(run, poisoned_store):
    """All windows come by within 6 steps; one or two of them are poisoned."""
    folder, attempt = run
    code, told = attempt(data_store=poisoned_store)
    assert code == 0
    skips = [line for line in told.splitlines() if "is skipped" in line]
    what = "in the data, temperature of 2001-01-02T06 is not finite"
    assert skips and all(what in line for line in skips)
    lines = [line for line in read_metrics(folder) if "loss" in line]
    assert sum(line["skipped"] > 0 for line in lines) == len(skips)
    assert all(np.isfinite(line["loss"]) == (line["skipped"] == 0) for line in lines)
    (evaluation,) = (line for line in read_metrics(folder) if "eval_loss" in line)
    assert np.isfinite(evaluation["eval_loss"])
    assert not list(pathlib.Path(folder).glob("rollbacks*"))
