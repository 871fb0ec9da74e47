"""A published model beside the official package: figures, inputs, conversions."""

import argparse
import json

import numpy as np
import pytest

from launch import cli
from launch.benchmarks import published
from model.spec import LEVEL_VARIABLES
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from tests.model import judges


def test_no_hours_are_a_mistake():
    with pytest.raises(UserError, match="--hours=0 must be at least 1"):
        published.run(argparse.Namespace(hours=0, checkpoint=None))


def test_interpolation_keeps_a_wave():
    def wave(grid):
        longitude = np.deg2rad(grid.longitude_degrees)
        sin = grid.sin_latitude[:, None]
        return 280 + 5 * sin + (1 - sin**2) * np.cos(2 * longitude)

    source, target = parse_grid("TL31"), parse_grid("TL63")
    result = published.interpolated(wave(source)[None], source, target)
    np.testing.assert_allclose(result, wave(target)[None], rtol=1e-12)


@pytest.mark.parametrize("zero_sine", [False, True])
def test_dinosaurs_order_of_coefficients(zero_sine):
    x = np.random.default_rng(0).normal(size=(3, 7, 5))
    theirs = np.insert(x, 1, 0, axis=-2) if zero_sine else x
    np.testing.assert_array_equal(
        published.our_modal(theirs), judges.modal_from_dinosaur(x)
    )


@pytest.mark.slow
def test_an_hour_beside_the_official_package(capsys, tmp_path):
    pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    with pytest.raises(SystemExit) as end:
        plot = f"--plot={tmp_path / 'maps.png'}"
        cli.main(["bench", "published", "--hours=1", "--json", plot])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("\n") == 1
    figures = json.loads(out)
    assert set(figures) == {"case", "ours", "official", "ratio", "error"}
    for name in ("ours", "official", "ratio"):
        assert set(figures[name]) == {"hour_s", "compile_s"}
        assert min(figures[name].values()) > 0
    assert figures["case"]["core_grid"] == {
        "ours": "62@192x96",
        "official": "62@190x95",
    }
    assert set(figures["error"]) == set(LEVEL_VARIABLES)
    for errors in figures["error"].values():
        assert set(errors) == {"1"} and errors["1"] < 0.01
    assert (tmp_path / "maps.png").stat().st_size > 10_000
