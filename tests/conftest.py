"""8 virtual CPU devices and float64 for every test; `--slow` runs the slow ones."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import pytest

jax.config.update("jax_enable_x64", True)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def era5_tl31():
    """A real ERA5 analysis, 1959-01-02 00z: 37 levels on a 64 x 32 Gaussian grid."""
    import xarray

    neuralgcm = pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    folder = pathlib.Path(neuralgcm.__file__).parent / "data"
    return xarray.load_dataset(folder / "era5_tl31_19590102T00.nc")
