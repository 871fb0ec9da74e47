"""Configurations of the four models of the NeuralGCM paper, as gin text.

The official package has the code of those models but not their configurations. What
it does have is a toy checkpoint, whose configuration has the same shape. So the texts
of the paper are made here from that of the toy, by tables of what differs.
"""

import functools
import importlib.util
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from launch.published import gin
from launch.published.checkpoint import Published, read_published
from tests.launch.papers_statistics import (
    DATA_STATISTICS,
    HUMIDITY,
    MEMORY,
    MEMORY_SCALES,
    MEMORY_SHIFTS,
    STATE_STATISTICS,
    TENDENCY_SCALES,
    TOP_TEMPERATURE,
    TRACERS,
)

CONFIGURATIONS = (
    "deterministic_2_8_deg",
    "deterministic_1_4_deg",
    "deterministic_0_7_deg",
    "stochastic_1_4_deg",
)
_FINER = ("deterministic_1_4_deg", "deterministic_0_7_deg")  # have much in common

# Values by name: of macros, in capitals, and of modules' arguments. References are
# texts that begin with @, macros such that begin with %.
_Bindings = dict[str, Any]


def paper_config(name: str, grid: str | None = None) -> str:
    """The configuration of a model of the paper, as gin text.

    Args:
      name: one of `CONFIGURATIONS`.
      grid: such as "TL31", with an odd number, for a model on another horizontal grid;
        the grid of the dynamics follows.
    """
    if name not in CONFIGURATIONS:
        raise ValueError(f"{name!r} is none of {CONFIGURATIONS}")
    bindings = gin.parse(toy().config).values
    _set_sizes(bindings)
    _set_grids_and_steps(bindings, name, grid or _GRID[name])
    _set_filters(bindings, name)
    _set_encoder_and_decoder(bindings, name)
    _set_orography(bindings, name)
    _set_surface(bindings, name)
    _set_randomness_and_memory(bindings, name)
    _set_statistics(bindings, name)
    return "".join(f"{key} = {_gin_value(x)}\n" for key, x in bindings.items())


# Sizes: of networks and learned features


def _set_sizes(bindings: _Bindings) -> None:
    """Widths and depths, which are the same in all four."""
    bindings |= {
        "LATENT_SIZE": 384,
        "LAYER_SIZE": 384,
        "NUM_BLOCKS": 5,
        "N_CNN_FEATURES": 32,
        "VerticalConvTower.channels": [64, 64, 64, 64],
    }
    _remove(bindings, "CNN_CHANNELS")


# Grids and steps

_GRID = dict(zip(CONFIGURATIONS, ("TL63", "TL127", "TL255", "TL127"), strict=True))
_SUBSTEPS = dict(  # of the physics in an hour, of the dynamics in one of those
    zip(CONFIGURATIONS, ((1, 5), (2, 5), (2, 8), (2, 5)), strict=True)
)
_DATA_STEP = dict(
    zip(CONFIGURATIONS, ("6 hours", "12 hours", "6 hours", None), strict=True)
)


def _set_grids_and_steps(bindings: _Bindings, name: str, grid: str) -> None:
    physics, dynamics = _SUBSTEPS[name]
    bindings |= {
        "NUM_SUBSTEPS": physics,
        "N_INNER_DYCORE_STEPS": dynamics,
        "DynamicDataForcing.data_time_step": _DATA_STEP[name],
        "CoordinateSystem.horizontal": f"@Grid{grid}()",
    }
    dycore = "smaller/GridWithWavenumbers"
    wavenumbers = int(grid.removeprefix("TL"))
    if name == "deterministic_2_8_deg":  # has the package's default harmonics
        bindings["coordinate_system_from_dataset.spherical_harmonics_impl"] = None
        _remove(
            bindings,
            "GridTL63",
            "RealSphericalHarmonicsWithZeroImag",
            "orography/RealSphericalHarmonicsWithZeroImag",
            f"{dycore}.spherical_harmonics_impl",
        )
    else:
        wavenumbers -= 1
        _rename(bindings, "GridTL63", f"Grid{grid}")
    bindings[f"{dycore}.longitude_wavenumbers"] = wavenumbers
    if name in _FINER:
        # A macro's value is made in a scope that is called like the macro.
        bindings["DYCORE_GRID"] = "@GridWithWavenumbers()"
        _rename(bindings, dycore, "DYCORE_GRID/GridWithWavenumbers")
    if name == "deterministic_0_7_deg":
        for argument in ("base_shape_multiple", "reverse_einsum_arg_order"):
            bindings[argument.upper()] = None
            for scope in ("", "orography/"):
                key = f"{scope}RealSphericalHarmonicsWithZeroImag.{argument}"
                bindings[key] = f"%{argument.upper()}"


# Filters: of the dynamics, of the physics and of the encoder's states

_STABILITY = dict(  # time scale, order
    zip(
        CONFIGURATIONS,
        (("4 minutes", 10), ("8 minutes", 6), ("4 minutes", 6), ("4 minutes", 10)),
        strict=True,
    )
)


def _set_filters(bindings: _Bindings, name: str) -> None:
    time_scale, order = _STABILITY[name]
    bindings |= {
        "STABILITY_TAU": time_scale,
        "stability/ExponentialFilter.order": order,
    }
    if name == "stochastic_1_4_deg":
        return
    bindings |= {
        "EncoderCombinedTransform.transforms": (
            "@InputClipTransform",
            "@EncoderFilterTransform",
        ),
        "EncoderFilterTransform.name": None,
    }
    if name == "deterministic_2_8_deg":
        bindings |= {
            "INPUT_FILTER_ATTEN": 5,
            "INPUT_FILTER_ORDER": 15,
            "EncoderFilterTransform.filter_modules": (
                "@encoder/DataExponentialFilter",
            ),
        }
        _add_data_filter(
            bindings, "encoder", "%INPUT_FILTER_ATTEN", 0, "%INPUT_FILTER_ORDER"
        )
        return
    humid = 14 if name == "deterministic_1_4_deg" else 17
    _add_data_filter(bindings, "divergence", 14.0, 0.62, 2)
    _add_data_filter(bindings, "vorticity", 14, 0.62, 2)
    _add_data_filter(bindings, "temperature_variation", 13.0, 0.45, 3)
    _add_data_filter(bindings, "lsp", 8, 0.82, 1)
    _add_data_filter(bindings, "q", humid, 0.62, 2)
    bindings |= {
        "DataNoFilter.name": None,
        "EncoderFilterTransform.filter_modules": ("@PerVariableDataFilter",),
        "PerVariableDataFilter.name": None,
        "PerVariableDataFilter.per_variable_filters": {
            "divergence": "@divergence/DataExponentialFilter",
            "log_surface_pressure": "@lsp/DataExponentialFilter",
            "sim_time": "@DataNoFilter",
            "temperature_variation": "@temperature_variation/DataExponentialFilter",
            "tracers": {tracer: "@q/DataExponentialFilter" for tracer in TRACERS},
            "vorticity": "@vorticity/DataExponentialFilter",
        },
    }


def _add_data_filter(
    bindings: _Bindings, scope: str, attenuation: Any, cutoff: float, order: Any
) -> None:
    bindings |= {
        f"{scope}/DataExponentialFilter.attenuation": attenuation,
        f"{scope}/DataExponentialFilter.cutoff": cutoff,
        f"{scope}/DataExponentialFilter.name": None,
        f"{scope}/DataExponentialFilter.order": order,
    }


# Encoder and decoder: their features

_POSITIONAL = dict(zip(CONFIGURATIONS, (8, 32, 32, 8), strict=True))
_ENCODER = "DimensionalLearnedWeatherbenchToPrimitiveEncoder"
_MEMORY_ENCODER = "DimensionalLearnedWeatherbenchToPrimitiveWithMemoryEncoder"
_DECODER = "DimensionalLearnedPrimitiveToWeatherbenchDecoder"


def _set_encoder_and_decoder(bindings: _Bindings, name: str) -> None:
    bindings["POSITIONAL_LATENT_SIZE"] = _POSITIONAL[name]
    if name in _FINER:
        # The decoder sees every field of the state, and no gradients.
        features = bindings["decoder_model/CombinedFeatures.feature_modules"]
        bindings |= {
            "decoder_model/CombinedFeatures.feature_modules": _replaced(
                features,
                "@decoder_model/VelocityAndPrognostics",
                "@model/VelocityAndPrognostics",
            ),
            "model/VelocityAndPrognostics.fields_to_include": None,
            "model/VelocityAndPrognostics.name": None,
        }
        _remove(
            bindings,
            "decoder_model/VelocityAndPrognostics",
            "decoder_model/ToModalDiffOperators",
        )
    else:
        bindings["decoder_model/VelocityAndPrognostics.fields_to_include"] = [
            "divergence",
            "vorticity",
            "u",
            "v",
            "temperature_variation",
            "specific_humidity",
        ]


# Orography: learned where


def _set_orography(bindings: _Bindings, name: str) -> None:
    """What is learned, and by what unit; the dynamics' own is learned in all four."""
    finer = name in _FINER
    bindings["LearnedOrography.correction_scale"] = 2e-06 if finer else 1e-05
    if finer:
        bindings[f"{_DECODER}.orography_module"] = "@LearnedOrography"
    if name != "stochastic_1_4_deg":
        bindings[f"{_ENCODER}.orography_module"] = "@LearnedOrography"


# Surface: networks over sea, land and ice, or constants over the latter two


def _set_surface(bindings: _Bindings, name: str) -> None:
    if name not in _FINER:
        return
    bindings |= {
        "advance/NodalLandSeaIceEmbedding.land_embedding": None,
        "advance/NodalLandSeaIceEmbedding.sea_ice_embedding": None,
    }
    for scope in ("land_model", "sea_ice_model"):
        _remove(bindings, *{x.split(".")[0] for x in bindings if x.startswith(scope)})


# Randomness and memory: the one or the other


def _set_randomness_and_memory(bindings: _Bindings, name: str) -> None:
    if name == "stochastic_1_4_deg":
        module = "DictOfGaussianRandomFieldModules"
        _rename(bindings, "BatchGaussianRandomFieldModule", module)
        bindings |= {
            "ADVANCE_RANDOMNESS_MODULE": f"@{module}",
            "ENCODE_RANDOMNESS_MODULE": f"@{module}",
            f"{module}.field_names": tuple(
                x
                for x in bindings["advance/ShiftAndNormalize.scales"]
                if x.startswith("GRF_")
            ),
        }
        return
    _remove(
        bindings,
        "ADVANCE_RANDOMNESS_MODULE",
        "ENCODE_RANDOMNESS_MODULE",
        "DECODE_RANDOMNESS_MODULE",
        "FIELD_SUBSET",
        "CHECKPOINT_MULTISTEP",
        "BatchGaussianRandomFieldModule",
        "NoRandomField",
        f"{_ENCODER}.randomness_module",
        f"{_DECODER}.randomness_module",
        *{x.split(".")[0] for x in bindings if x.startswith("encoder_model/")},
        *{x.split(".")[0] for x in bindings if "/RandomnessFeatures" in x},
    )
    for scope in ("advance", "decoder_model"):
        key = f"{scope}/CombinedFeatures.feature_modules"
        bindings[key] = _replaced(bindings[key], "@RandomnessFeatures")
    bindings |= {
        "advance/CombinedFeatures.feature_modules": _replaced(
            bindings["advance/CombinedFeatures.feature_modules"],
            "@advance/VelocityAndPrognostics",
            "@advance/VelocityAndPrognostics",
            "@MemoryVelocityAndValues",
        ),
        "advance/MemoryVelocityAndValues.fields_to_include": None,
        "advance/MemoryVelocityAndValues.name": None,
        f"{_ENCODER}.modal_to_nodal_model_features_module": "@NullFeatures",
        "StochasticModularStepModel.encoder_module": f"@{_MEMORY_ENCODER}",
        "StochasticPhysicsParameterizationStep.randomness_module": "@ZerosRandomField",
        "ZerosRandomField.prefer_nodal": True,
        "trajectory_from_step.checkpoint_multistep": False,
    }
    _rename(bindings, _ENCODER, _MEMORY_ENCODER)


# Statistics: shifts and scales of features by variable, and of outputs. Those of
# TL63 are the toy's.


def _set_statistics(bindings: _Bindings, name: str) -> None:
    if name == "deterministic_2_8_deg":
        _set_cloud_outputs(bindings)
    else:
        _set_finer_statistics(bindings, _GRID[name])
    if name == "deterministic_0_7_deg":
        bindings["GLOBAL_OUT_SCALE"] = 0.01
    # The same statistics stand in many scopes, whether they are used there or not.
    for key in [x for x in bindings if "/ShiftAndNormalize.s" in x]:
        statistics = dict(bindings[key])
        statistics.pop("randomness", None)
        if name == "deterministic_0_7_deg":
            statistics.pop("sea_ice_cover", None)
        if name != "stochastic_1_4_deg":
            statistics = {k: x for k, x in statistics.items() if "GRF_" not in k}
        if name != "stochastic_1_4_deg" and not key.startswith("encoder_data/"):
            others = MEMORY_SCALES if key.endswith("scales") else MEMORY_SHIFTS
            for field in MEMORY:
                x = others.get(name, {}).get(field, statistics[field])
                statistics[f"memory_{field}"] = x
        bindings[key] = dict(sorted(statistics.items()))


def _set_cloud_outputs(bindings: _Bindings) -> None:
    """At 2.8 degrees clouds vary 20 times as much in outputs as in features."""
    for scope in ("decoder", "div_curl_tendency_outputs", "encoder"):
        tracers = bindings[f"{scope}/InverseShiftAndNormalize.scales"]["tracers"]
        for cloud in TRACERS[:2]:
            tracers[cloud] *= 20


def _set_finer_statistics(bindings: _Bindings, grid: str) -> None:
    """Those of TL127 or TL255."""
    bindings["get_model_specs.reference_temperature"][0] = TOP_TEMPERATURE
    column = ("TL127", "TL255").index(grid)
    state = {k: x[2 * column :] for k, *x in _lines(STATE_STATISTICS)}
    data = state | {k: x[2 * column :] for k, *x in _lines(DATA_STATISTICS)}
    for key in [x for x in bindings if "/ShiftAndNormalize.s" in x]:
        table = data if key.startswith("encoder_data/") else state
        which = 0 if key.endswith("scales") else 1
        for field in bindings[key].keys() & table.keys():
            bindings[key][field] = table[field][which]
    outputs = {
        "encoder": {k: x[0] for k, x in state.items()},
        "decoder": {k: x[0] for k, x in data.items()},
        "div_curl_tendency_outputs": {
            k: x[column] for k, *x in _lines(TENDENCY_SCALES)
        },
    }
    for scope, table in outputs.items():
        scales = bindings[f"{scope}/InverseShiftAndNormalize.scales"]
        for fields in (scales, scales["tracers"]):
            for field in fields.keys() & table.keys():
                fields[field] = table[field]
    layers, levels, tendencies = (
        [float(x) for x in text.split()] for text in HUMIDITY[grid]
    )
    bindings |= {
        "advance/InverseLevelScale.scales": layers,
        "decoder_model/InverseLevelScale.scales": layers,
        "encode/LevelScale.scales": layers,
        "encoder_data/InverseLevelScale.scales": levels,
        "decoder/LevelScale.scales": levels,
        "div_curl_tendency_outputs/LevelScale.scales": tendencies,
    }


def _lines(table: str) -> Iterable[list[Any]]:
    """Lines of a table: a name, and numbers."""
    for line in table.strip().splitlines():
        field, *numbers = line.split()
        yield [field, *map(float, numbers)]


# Text


def _gin_value(value: Any) -> str:
    """A value as gin text: references and macros stand without quotes."""
    return re.sub(r"'([@%][\w./]+(?:\(\))?)'", r"\1", repr(value))


def _remove(bindings: _Bindings, *names: str) -> None:
    """Removes bindings, or all of a module's."""
    for key in list(bindings):
        if key in names or key.split(".")[0] in names:
            del bindings[key]


def _rename(bindings: _Bindings, old: str, new: str) -> None:
    """Renames a module, its scope included."""
    for key in list(bindings):
        module, _, argument = key.partition(".")
        if module == old:
            bindings[f"{new}.{argument}"] = bindings.pop(key)


def _replaced(items: tuple, old: Any, *new: Any) -> tuple:
    """With others, or with none, in the place of an item."""
    index = items.index(old)
    return items[:index] + new + items[index + 1 :]


# The toy


@functools.cache
def toy() -> Published:
    """The official package's toy checkpoint, at TL63."""
    return read_published(official_data() / "tl63_stochastic_mini.pkl")


def official_data() -> pathlib.Path:
    """The official package's data."""
    spec = importlib.util.find_spec("neuralgcm")
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"
