"""Descriptions of whole and of damaged stores."""

import json
import shutil

import pytest

from pipeline.errors import UserError
from pipeline.inspect import describe, format_description
from pipeline.preprocess import preprocess


@pytest.fixture(scope="module")
def finished(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    make_dataset().to_zarr(folder / "source", zarr_format=2)
    preprocess(
        str(folder / "source"),
        str(folder / "store"),
        "T21",
        variables="temperature,sea_surface_temperature,land_sea_mask",
        levels="500,850",
        shard_steps=4,
    )
    return folder / "store"


def test_whole_store(finished):
    description = json.loads(json.dumps(describe(finished)))
    assert description["whole"] and not description["faults"]
    assert description["times"] == 10 and description["step_hours"] == 6
    assert description["first_time"] == "1990-01-01T00:00"
    temperature = description["variables"]["temperature"]
    assert temperature["shape"] == [10, 2, 32, 64]
    assert temperature["shards"] == temperature["shards_done"] == 3
    assert len(temperature["statistics"]["mean"]) == 2
    sizes = [v["bytes"] for v in description["variables"].values()]
    assert description["bytes"] == sum(sizes) > 0
    text = format_description(description)
    assert ": whole" in text and "random numbers" in text
    for name in description["variables"]:
        assert name in text


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("temperature/c/2/0/0/0", "shard 2 of temperature is missing"),
        ("_build/done/land_sea_mask/0.json", "shard 0 of land_sea_mask is not done"),
        ("_build/READY", "is not finished"),
        ("stats/statistics.json", "statistics.json is missing"),
    ],
)
def test_what_is_missing(finished, tmp_path, file, fault):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / file).unlink()
    description = describe(copy)
    assert not description["whole"]
    assert len(description["faults"]) == 1 and fault in description["faults"][0]
    assert "NOT WHOLE" in format_description(description)


def test_not_a_store(tmp_path):
    with pytest.raises(UserError, match="is not a PodGCM store"):
        describe(tmp_path)
