"""The scales of a published model, from its configuration's shifts and scales.

Theirs are one number for each field and, for humidity, a profile; ours one number for
each level of a field. Pressure is in another unit there: that of a dry atmosphere's
mass over the Earth's radius and the square of the time unit.
"""

import math

import jax.numpy as jnp
import numpy as np

from launch.published.gin import Gin
from launch.published.options import DATA_NAMES, STATE_NAMES
from model import units
from model.networks import CONVOLUTION_SCALE
from model.scales import (
    AIR,
    DERIVATIVES,
    Normal,
    Scales,
    input_sizes,
    output_sizes,
)
from model.spec import LAYER_FIELDS, ModelSpec
from pipeline.errors import UserError

_ATMOSPHERE_MASS = 5.18e18  # kg, theirs of mass
# p00 in their unit of pressure, and what our ln(ps / p00) lacks of theirs.
PRESSURE_UNIT = 1e5 * units.EARTH_RADIUS / units.SECOND**2 / _ATMOSPHERE_MASS
LOG_PRESSURE = math.log(PRESSURE_UNIT)

GROUND_NAMES = {"radiation": "solar_flux"} | {
    f"geopotential_at_surface{end}": f"surface_geopotential{end}"
    for end in ("", *(f"_{d}" for d in DERIVATIVES))
}
# Their transforms by our networks.
INPUTS = {
    "encoder": "encoder_data",
    "physics": "advance",
    "decoder": "decoder_model",
    "convolution": "embedding_model",
}
OUTPUTS = {
    "encoder": ("encoder", "encode"),
    "physics": ("div_curl_tendency_outputs", "div_curl_tendency_outputs"),
    "decoder": ("decoder", "decoder"),
}
_OF_SURFACE = {
    "sea_surface_temperature": "sea_model",
    "sea_ice_cover": "sea_ice_model",
    **dict.fromkeys(AIR, "land_model"),
}


def their_name(name: str, of_data: bool) -> str:
    """Their name of one of our fields, of the data or of the model's atmosphere."""
    memory = "memory_" if name.startswith("memory_") else ""
    base = name.removeprefix(memory)
    end = next((f"_{d}" for d in DERIVATIVES if base.endswith(f"_{d}")), "")
    base = base.removesuffix(end)
    names = DATA_NAMES if of_data else STATE_NAMES
    theirs = {ours: their for their, ours in {**GROUND_NAMES, **names}.items()}
    return memory + theirs.get(base, base) + end


def published_scales(gin: Gin, spec: ModelSpec) -> Scales:
    """Scales of inputs and outputs; changes, which are not published, are ones.

    Raises:
      UserError: if a field has no scale.
    """
    inputs = {
        network: {
            name: _normal(gin, network, name, size, spec)
            for name, size in names.items()
        }
        for network, names in input_sizes(spec).items()
    }
    outputs = {
        network: {
            name: _multiplier(gin, network, name, size) for name, size in names.items()
        }
        for network, names in output_sizes(spec).items()
    }
    _check_learned(gin, spec)
    _check_air(gin, spec)
    layers, levels = spec.sigma.layers, len(spec.levels)
    fields = dict.fromkeys(LAYER_FIELDS, layers) | {"log_surface_pressure": 1}
    return Scales(
        inputs=inputs,
        outputs=outputs,
        data_change={name: jnp.ones(levels) for name in outputs["decoder"]},
        column_change={name: jnp.ones(size) for name, size in fields.items()},
    )


def _normal(gin: Gin, network: str, name: str, size: int, spec: ModelSpec) -> Normal:
    scope = _OF_SURFACE[name] if network == "surface" else INPUTS[network]
    if scope == "land_model" and spec.networks.surface == "constant":
        return Normal(jnp.zeros(size), jnp.ones(size))  # nobody looks at it
    if name == "sea_ice_cover" and spec.networks.surface == "constant":
        return Normal(jnp.zeros(size), jnp.ones(size))
    theirs = their_name(name, network == "encoder")
    mean = np.full(size, _lookup(gin, f"{scope}/ShiftAndNormalize.shifts", theirs))
    std = np.full(size, _lookup(gin, f"{scope}/ShiftAndNormalize.scales", theirs))
    profile = f"{scope}/InverseLevelScale"
    if f"{profile}.scales" in gin and network != "surface":
        if theirs in gin.get(f"{profile}.keys_to_scale"):
            std = std * _profile(gin, f"{profile}.scales", size)
    if theirs.endswith("temperature_variation"):
        mean = mean + spec.reference_profile[-size:]
    if theirs.endswith("log_surface_pressure"):
        mean = mean - LOG_PRESSURE
    if theirs == "pressure":
        mean, std = mean / PRESSURE_UNIT, std / PRESSURE_UNIT
    return Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def _multiplier(gin: Gin, network: str, name: str, size: int) -> jnp.ndarray:
    scales, profile = OUTPUTS[network]
    scales = f"{scales}/InverseShiftAndNormalize"
    theirs = their_name(name, network == "decoder")
    shift = _lookup(gin, f"{scales}.shifts", theirs)
    if shift != 0:
        raise UserError(f"the checkpoint shifts an output: {scales}.shifts, {theirs}")
    scale = _lookup(gin, f"{scales}.scales", theirs) * gin.get(f"{scales}.global_scale")
    values = np.full(size, scale)
    if theirs in gin.get(f"{profile}/LevelScale.keys_to_scale"):
        values = values * _profile(gin, f"{profile}/LevelScale.scales", size)
    return jnp.asarray(values, jnp.float32)


def _lookup(gin: Gin, option: str, name: str) -> float:
    values = gin.get(option)
    values = {**values, **values["tracers"]} if "tracers" in values else values
    if name not in values:
        raise UserError(f"the checkpoint's {option} lacks {name}")
    return float(values[name])


def _profile(gin: Gin, option: str, size: int) -> np.ndarray:
    values = np.asarray(gin.get(option), np.float64)
    if values.shape != (size,):
        raise UserError(
            f"the checkpoint's {option} has {len(values)} values for {size} levels"
        )
    return values


def _check_learned(gin: Gin, spec: ModelSpec) -> None:
    """Features that networks make themselves have fixed scales in our model."""
    expected: dict[tuple[str, str], float] = {
        (scope, "learned_positional_features"): 1.0
        for scope in ("advance", "encoder_data", "decoder_model")
    }
    expected["advance", "surface_embedding"] = 1.0
    channels = spec.networks.convolution[-1]
    expected |= {
        ("advance", f"CNN1D_{i}"): 1 / CONVOLUTION_SCALE for i in range(channels)
    }
    if spec.networks.noise:
        for scope in ("advance", "encoder_model"):
            names = gin.get(f"{scope}/ShiftAndNormalize.scales")
            expected |= {
                (scope, name): 1.0
                for name in names
                if name == "randomness" or name.startswith("GRF")
            }
    for (scope, name), scale in expected.items():
        option = f"{scope}/ShiftAndNormalize"
        found = (
            _lookup(gin, f"{option}.shifts", name),
            _lookup(gin, f"{option}.scales", name),
        )
        if found != (0.0, scale):
            raise UserError(
                f"the checkpoint uses an option that is not supported: {option} has "
                f"shift and scale {found} for {name}, and not (0, {scale})"
            )


def _check_air(gin: Gin, spec: ModelSpec) -> None:
    """Land and ice look at the same air with the same scales."""
    if spec.networks.surface != "air":
        return
    for name in AIR:
        theirs = their_name(name, of_data=False)
        for kind in ("shifts", "scales"):
            land, ice = (
                _lookup(gin, f"{model}/ShiftAndNormalize.{kind}", theirs)
                for model in ("land_model", "sea_ice_model")
            )
            if land != ice:
                raise UserError(
                    "the checkpoint uses an option that is not supported: "
                    f"land_model and sea_ice_model have other {kind} for {theirs}"
                )
