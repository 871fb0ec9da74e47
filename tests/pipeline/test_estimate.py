"""The estimate of a run, against the run itself, and against pencil and paper."""

import json

import numpy as np
import pytest

from launch.cli import main
from pipeline.estimate import PACKED_RATIO, estimate, format_estimate
from pipeline.preprocess import preprocess
from pipeline.request import Request, make_plans
from tests.pipeline.test_dataflow import arco, targets  # noqa: F401


@pytest.fixture(scope="module")
def source(make_dataset, tmp_path_factory):
    """Chunks of 3 times, all 4 levels and half of the latitudes."""
    path = tmp_path_factory.mktemp("source") / "source.zarr"
    dataset = make_dataset(steps=9, levels=(250, 500, 850, 1000), latitudes=34)
    chunks = {"chunks": (3, 4, 17, 64)}
    dataset.to_zarr(path, zarr_format=2, encoding={"temperature": chunks})
    return str(path)


NAMES = "temperature,land_sea_mask"


@pytest.mark.parametrize("layout", ["variables", "stacked"])
def test_estimate_is_what_happens(source, tmp_path, layout):
    flags = {"variables": NAMES, "levels": "250,500,850,1000", "layout": layout}
    flags |= {"grid": "T21,TL31", "shard_steps": 3}
    plans = make_plans(Request(source=source, **flags))
    figures = estimate([(f"{tmp_path}/store/{plan.grid}", plan) for plan in plans])
    preprocess(source, str(tmp_path / "store"), **flags)
    (run,) = (tmp_path / "store/T21/_build/runs").glob("*")
    report = json.loads(run.read_text())
    assert figures["source_bytes"] == report["source_bytes"]
    assert figures["items"] == len(report["done"]) == 4
    # Three blocks of times, of two chunks each; the mask, of one.
    assert figures["source_chunks"] == 3 * 2 + 1
    for store in figures["targets"]:
        folder = tmp_path / "store" / store["grid"]
        files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
        shards = [f for f in files if "c" in f.parts and f.parts[0] in plans[0].arrays]
        small = [f for f in files if f.parts[1:2] and f.parts[1] in ("done", "moments")]
        assert store["shards"] == len(shards)
        assert store["objects"] == len(shards) + len(small)
        packed = sum((folder / file).stat().st_size for file in shards)
        # Means of random numbers: they hardly pack.
        assert 0.6 < packed / store["raw_bytes"] < 1


def test_chunks_are_read_whole(source):
    """One level of four, and every other time, cost as much as all."""

    def size(levels, times):
        request = Request(source, "T21", times, variables="temperature", levels=levels)
        return estimate([("store", plan) for plan in make_plans(request)])

    every = size("250,500,850,1000", "1990-01-01/1990-01-02T12")
    few = size("500", "1990-01-01/1990-01-02T12/12h")
    assert few["source_bytes"] == every["source_bytes"]
    assert few["source_chunks"] == every["source_chunks"] == 6
    assert few["targets"][0]["raw_bytes"] * 7 == every["targets"][0]["raw_bytes"]


def test_forty_years(targets):  # noqa: F811
    figures = estimate(targets)
    times, plane = 58440, 4 * 721 * 1440
    # Seven variables on 37 levels, two surface fields; two static ones once.
    assert figures["source_bytes"] == (times * (7 * 37 + 2) + 2) * plane
    assert figures["source_chunks"] == times * 9 + 2
    raw = [store["raw_bytes"] for store in figures["targets"]]
    assert raw[0] == (times * (7 * 37 + 2) + 2) * 4 * 64 * 128
    assert raw[1] == 4 * raw[0]
    packed = [store["packed_bytes"] for store in figures["targets"]]
    np.testing.assert_allclose(packed, PACKED_RATIO * np.array(raw))
    assert 50 < figures["core_hours"] < 70
    assert 1e9 < figures["memory_per_thread_bytes"] < 2e9
    text = format_estimate(figures)
    assert "4,115 items" in text and "63.3 TB" in text and "assumed" in text


def test_command_writes_nothing(source, tmp_path, capsys):
    output = tmp_path / "store"
    flags = [f"--source={source}", "--grid=T21", f"--output={output}"]
    flags += [f"--variables={NAMES}", "--levels=500,850", "--dry_run"]

    def run(*more):
        with pytest.raises(SystemExit) as info:
            main(["preprocess", *flags, *more])
        return info.value.code

    assert run() == 0
    assert "nothing was written" in capsys.readouterr().out
    assert run("--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["items"] == 2 and figures["targets"][0]["grid"] == "T21"
    assert not output.exists()
    # What would be refused is refused.
    output.mkdir()
    (output / "letter.txt").write_text("dear")
    assert run() == 2
    assert "is not a store" in capsys.readouterr().err
