"""8 virtual CPU devices and float64 for every test.

`--drills` runs those that continuous integration adds, `--slow` the slow ones; each
alone.
"""

import atexit
import importlib.util
import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# What one test compiles, others and the processes that they start find there.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="podgcm-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)

from launch import virtual_devices

virtual_devices.prepare()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)


def pytest_addoption(parser):
    parser.addoption("--drills", action="store_true", help="run the drills alone")
    parser.addoption("--slow", action="store_true", help="run the slow tests alone")


def pytest_collection_modifyitems(config, items):
    kinds = [x for x in ("drills", "slow") if config.getoption(f"--{x}")] or ["default"]
    others = [x for x in items if kind(x) not in kinds]
    config.hook.pytest_deselected(items=others)
    items[:] = [x for x in items if kind(x) in kinds]


def kind(item):
    if "slow" in item.keywords:
        return "slow"
    return "drills" if "drill" in item.keywords else "default"


@pytest.fixture(scope="session")
def era5_tl31():
    """A real ERA5 analysis, 1959-01-02 00z: 37 levels on a 64 x 32 Gaussian grid."""
    import xarray

    neuralgcm = pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    folder = pathlib.Path(neuralgcm.__file__).parent / "data"
    return xarray.load_dataset(folder / "era5_tl31_19590102T00.nc")


@pytest.fixture(scope="session")
def planet(tmp_path_factory):
    """A small sample planet: four days, 64 longitudes."""
    from launch.sample import make_sample

    path = tmp_path_factory.mktemp("planet") / "planet.zarr"
    with jax.enable_x64(False):
        make_sample(str(path), days=4, spin_up_days=1, longitudes=64)
    return str(path)


@pytest.fixture(scope="session")
def tiny_store(planet, tmp_path_factory):
    """The small planet on 32 x 16 points and eight levels, quick to compile for."""
    from pipeline.preprocess import preprocess

    path = tmp_path_factory.mktemp("store") / "tiny"
    levels = "10,50,100,250,500,700,850,1000"
    return preprocess(planet, str(path), "15@32x16", levels=levels, shard_steps=4)


@pytest.fixture(scope="session")
def make_tiny_config(tiny_store):
    """A function that makes a configuration of a tiny model of the small planet."""
    from configs import base

    def make():
        config = base.get_config()
        config.data.store = tiny_store.path
        config.data.train_times = "2001-01-01/2001-01-03"
        config.data.eval_times = "2001-01-04/2001-01-04"
        config.model.dycore_grid = "10@32x16"
        config.model.layers = 4
        config.model.step_minutes = 120
        config.model.width = 8
        config.model.blocks = 1
        config.train.batch = 2
        config.train.steps = 4
        config.train.checkpoint_every = 2
        config.train.eval_every = 4
        config.train.eval_batches = 1
        config.optimizer.warmup_steps = 1
        config.optimizer.decay_steps = 10
        return config

    return make


@pytest.fixture(scope="session")
def make_whole_config(make_tiny_config):
    """The same, with all that the paper's models have: memory, noise and the rest."""

    def make():
        config = make_tiny_config()
        model = config.model
        model.encoder_gradients = model.physics_gradients = True
        model.decoder_gradients = model.memory = True
        model.decoder_fields = ("u", "v", "temperature", "log_surface_pressure")
        model.convolution = (3, 2)
        model.convolution_window = 3
        model.surface = "air"
        model.surface_features = 2
        model.positional = 2
        model.noise = ((2000.0, 6.0), (500.0, 3.0))
        model.learned_orography = ("encoder", "core", "decoder")
        model.tendency_filters = ((60.0, 3, 0.2),)
        model.encoder_filters = (("temperature", 3.0, 2, 0.4), ("all", 1.0, 8, 0.0))
        return config

    return make


@pytest.fixture
def tiny_config(make_tiny_config):
    return make_tiny_config()


@pytest.fixture(scope="session")
def toy():
    """The checkpoint that comes with the official package."""
    package = importlib.util.find_spec("neuralgcm")
    if package is None:
        pytest.skip("the package neuralgcm is not installed")
    folder = pathlib.Path(package.submodule_search_locations[0])
    return folder / "data" / "tl63_stochastic_mini.pkl"


@pytest.fixture(scope="session")
def real_data():
    """Folder of real fields: ERA5 and ERA-Interim."""
    project = pathlib.Path(__file__).parents[1]
    default = project / "../shared/data"
    folder = pathlib.Path(os.environ.get("PODGCM_REAL_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip("no real data: set PODGCM_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_store(real_data, tmp_path_factory):
    """The real ERA5 analysis of 1959-01-02, gone through preprocessing, at TL31."""
    from pipeline.preprocess import preprocess

    neuralgcm = pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    folder = pathlib.Path(neuralgcm.__file__).parent / "data"
    static = [
        f"{real_data}/era5_static_025_{name}.nc"
        for name in ("geopotential", "land_sea_mask")
    ]
    return preprocess(
        str(folder / "era5_tl31_19590102T00.nc"),
        str(tmp_path_factory.mktemp("real") / "tl31"),
        "TL31",
        static_source=",".join(static),
    )
