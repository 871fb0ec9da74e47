"""The judges of the paper's models are what they should be."""

import pickle

import jax
import numpy as np
import pytest

from launch.published import gin
from launch.published.checkpoint import read_published
from tests.launch import papers
from tests.launch.papers_config import CONFIGURATIONS, paper_config

pytest.importorskip("neuralgcm.legacy.api", reason="needs the extra `judges`")


@pytest.mark.parametrize(
    "name, grid, count",
    [
        ("deterministic_2_8_deg", "TL63", 14_518_180),
        ("deterministic_1_4_deg", "TL127", 18_343_580),
        pytest.param(
            *("deterministic_0_7_deg", "TL255", 31_123_612), marks=pytest.mark.slow
        ),
        ("stochastic_1_4_deg", "TL127", 11_519_823),
    ],
)
def test_parameters_of_the_paper(name, grid, count):
    model = papers.official_model(name, papers.statics_on(grid))
    modules = papers.parameter_shapes(model).values()
    assert sum(x.size for arrays in modules for x in arrays.values()) == count


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_another_grid_changes_nothing_else(name):
    paper, coarse = (
        gin.parse(paper_config(name, grid)).values for grid in (None, "TL31")
    )
    differing = {x for x in paper.keys() & coarse.keys() if paper[x] != coarse[x]}
    assert differing <= {
        "CoordinateSystem.horizontal",
        "smaller/GridWithWavenumbers.longitude_wavenumbers",
        "DYCORE_GRID/GridWithWavenumbers.longitude_wavenumbers",
    }
    assert all(x.startswith("GridTL") for x in paper.keys() ^ coarse.keys())
    assert coarse["CoordinateSystem.horizontal"] == "@GridTL31()"


@pytest.mark.parametrize(
    "name",
    [
        "stochastic_1_4_deg",
        pytest.param("deterministic_2_8_deg", marks=pytest.mark.slow),
        pytest.param("deterministic_1_4_deg", marks=pytest.mark.slow),
        pytest.param("deterministic_0_7_deg", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_on_a_coarse_grid(name, tmp_path):
    """It is read by the product and by the official package, which encodes ERA5."""
    from neuralgcm.legacy import api

    path = tmp_path / "paper.pkl"
    statics = papers.statics_on("TL31")
    papers.write_checkpoint(path, name, statics, "TL31")

    published = read_published(path)
    assert published.config == paper_config(name, "TL31")
    for key, values in statics.items():
        np.testing.assert_array_equal(published.statics[key], values)
    for key, values in published.parameters.items():
        assert values.dtype == np.float32 and values.all(), key

    model = api.PressureLevelModel.from_checkpoint(pickle.loads(path.read_bytes()))
    analysis = papers.real_inputs("TL31")
    inputs = model.inputs_from_xarray(analysis)
    forcings = model.forcings_from_xarray(analysis)
    with jax.enable_x64(False):
        state = model.encode(inputs, forcings, jax.random.key(0))
    for values in jax.tree.leaves((state.state, state.memory)):
        assert np.isfinite(values).all()
    assert (state.memory is None) == (name == "stochastic_1_4_deg")


def test_fields_on_other_grids():
    analysis = papers.real_inputs("TL63")
    temperature = analysis.temperature.sel(level=500)
    assert temperature.shape == (128, 64)
    assert analysis.level.size == 37 and not analysis.isnull().any().to_array().any()
    assert 215 < temperature.min() and temperature.max() < 275
    for grid, shape in (("TL31", (64, 32)), ("TL63", (128, 64)), ("TL127", (256, 128))):
        statics = papers.statics_on(grid)
        weights = np.cos(np.deg2rad(statics["latitude"]))
        land = (statics["land_sea_mask"] * weights).mean() / weights.mean()
        assert statics["land_sea_mask"].shape == shape
        assert land == pytest.approx(0.29, abs=0.01)
        assert statics["geopotential_at_surface"].max() > 9.8 * 4000
