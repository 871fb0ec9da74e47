"""The four models of the NeuralGCM paper, with random weights: test-time judges."""

import pathlib
import pickle
import re
from typing import Any

import jax
import numpy as np
import scipy.stats
import xarray

from tests.launch.papers_config import official_data, paper_config, toy
from tests.launch.papers_statistics import TRACERS


def official_model(
    name: str, statics: dict[str, np.ndarray], grid: str | None = None
) -> Any:
    """The official model, without parameters; for the arguments see below."""
    from neuralgcm.legacy import api

    return api.PressureLevelModel.from_checkpoint(_checkpoint({}, name, statics, grid))


def write_checkpoint(
    path: str | pathlib.Path,
    name: str,
    statics: dict[str, np.ndarray],
    grid: str | None = None,
    seed: int = 0,
) -> None:
    """Writes a checkpoint with random weights, laid out as the published ones.

    Args:
      name: one of `CONFIGURATIONS`.
      statics: `geopotential_at_surface` in m2/s2 and `land_sea_mask`, both [longitude,
        latitude]; `longitude` and `latitude` in degrees; `level` in hPa.
      grid: the grid that they are on, if it is not the paper's.
    """
    generator = np.random.default_rng(seed)
    parameters = {
        module: {key: _weights(module, key, x.shape, generator) for key, x in y.items()}
        for module, y in parameter_shapes(official_model(name, statics, grid)).items()
    }
    with open(path, "wb") as file:
        pickle.dump(_checkpoint(parameters, name, statics, grid), file)


def parameter_shapes(model: Any) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Parameters of an official model by module and name, without their values."""
    from neuralgcm.legacy import gin_utils

    # The parameters are the same with fewer steps, and are there sooner.
    config = re.sub(r"(SUBSTEPS|DYCORE_STEPS) = \d+", r"\1 = 1", model.gin_config)
    levels, *plane = model.data_coords.nodal_shape
    column = jax.ShapeDtypeStruct((1, levels, *plane), np.float32)
    surface = jax.ShapeDtypeStruct((1, *plane), np.float32)
    time = {"sim_time": jax.ShapeDtypeStruct((1,), np.float32)}
    inputs = time | dict.fromkeys(("u", "v", "t", "z"), column)
    inputs |= {"tracers": dict.fromkeys(TRACERS, column), "diagnostics": {}}
    forcings = dict.fromkeys(("sea_surface_temperature", "sea_ice_cover"), surface)
    with jax.enable_x64(False), gin_utils.specific_config(config):
        return jax.eval_shape(
            model._structure.init_params, jax.random.key(0), inputs, forcings | time
        )


def _checkpoint(
    parameters: dict[str, dict[str, np.ndarray]],
    name: str,
    statics: dict[str, np.ndarray],
    grid: str | None,
) -> dict[str, Any]:
    return {
        "params": parameters,
        "aux_ds_dict": _dataset(statics).to_dict(data="array"),
        "model_config_str": paper_config(name, grid),
    }


# Standard deviations of what would begin at zero. The orography's is in units of its
# scale: some tens of metres in all.
_NOISE = {
    "b": 0.1,
    "learned_positional_features": 0.3,
    "orography": 0.3,
    "correlation_length_raw": 0.3,
    "correlation_time_raw": 0.3,
}
_OUTPUT = 0.3  # of a tower's last layer, to that of its others


def _weights(
    module: str, name: str, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    """Random values of a parameter: as initialised by the official package, or noise.

    There, weights are truncated at two standard deviations of 1 / sqrt(inputs), and
    the constants that stand for a surface's embedding at two of 1.
    """
    if name in _NOISE:
        values = generator.normal(scale=_NOISE[name], size=shape)
    else:
        scale = np.prod(shape[:-1]) ** -0.5 if name == "w" else 1.0
        if "/decode_tower/" in module:
            scale *= _OUTPUT
        values = scipy.stats.truncnorm.rvs(
            -2, 2, scale=scale, size=shape, random_state=generator
        )
    return np.asarray(values, np.float32)


# Data


def statics_on(grid: str) -> dict[str, np.ndarray]:
    """Orography and land of ERA5, such as `write_checkpoint` wants them.

    Args:
      grid: such as "TL63", from which they are regridded conservatively.
    """
    dataset = _regrid(_dataset(toy().statics), "TL63", grid)
    return {name: dataset[name].values for name in dataset.variables}


def real_inputs(grid: str) -> xarray.Dataset:
    """The ERA5 analysis of 1959-01-02 00z: inputs and forcings of official models.

    Args:
      grid: such as "TL31", from which it is regridded conservatively.
    """
    dataset = xarray.load_dataset(official_data() / "era5_tl31_19590102T00.nc")
    return _regrid(dataset, "TL31", grid)


def _dataset(statics: dict[str, np.ndarray]) -> xarray.Dataset:
    """Constant fields with their coordinates."""
    plane = ("longitude", "latitude")
    axes = (*plane, "level")
    units = {"geopotential_at_surface": "m**2 s**-2", "land_sea_mask": "(0 - 1)"}
    fields = {name: (plane, statics[name], {"units": x}) for name, x in units.items()}
    return xarray.Dataset(fields, {name: statics[name] for name in axes})


def _regrid(dataset: xarray.Dataset, source: str, target: str) -> xarray.Dataset:
    """Means over the cells of another grid, of fields [..., longitude, latitude]."""
    if source == target:
        return dataset
    from dinosaur import horizontal_interpolation, spherical_harmonic

    grids = [getattr(spherical_harmonic.Grid, x)() for x in (source, target)]
    regrid = horizontal_interpolation.ConservativeRegridder(*grids)
    plane = ["longitude", "latitude"]
    with jax.enable_x64(False):
        regridded = xarray.apply_ufunc(
            lambda x: np.asarray(regrid(x)),
            dataset,
            input_core_dims=[plane],
            output_core_dims=[plane],
            exclude_dims=set(plane),
        )
    return regridded.assign_coords(
        longitude=np.rad2deg(grids[1].longitudes),
        latitude=np.rad2deg(grids[1].latitudes),
    )
