"""The four models of the NeuralGCM paper, with random weights: test-time judges.

The official package has the code of those models but not their configurations. What
it does have is a toy checkpoint, whose configuration has the same shape. So the texts
of the paper are made here from that of the toy, by tables of what differs.
"""

import functools
import importlib.util
import pathlib
import pickle
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import scipy.stats
import xarray

from launch.published import gin
from launch.published.checkpoint import Published, read_published

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
    bindings = gin.parse(_mini().config).values
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
            "tracers": {tracer: "@q/DataExponentialFilter" for tracer in _TRACERS},
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

_TRACERS = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
    "specific_humidity",
)
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

_TOP_TEMPERATURE = 215.58614815  # reference of the uppermost layer, K; 223.6 at TL63

# Of a state's features. A line: name, scale and shift at TL127, at TL255.
_STATE_STATISTICS = """
cos_latitude                               0.3057    0.639  0.3068    0.638
divergence                                 0.08243  -0.0    0.1078   -0.0
divergence_del2                            629.5    -0.009  1825.0   -0.015
divergence_dlat                            6.037    -0.001  8.5      -0.001
divergence_dlon                            4.505     0.0    8.842     0.0
geopotential_at_surface                    0.009482  0.004  0.009579  0.004
geopotential_at_surface_del2               11.13    -0.069  28.66    -0.048
geopotential_at_surface_dlat               0.1337   -0.01   0.1882   -0.01
geopotential_at_surface_dlon               0.1168    0.0    0.1564   -0.0
land_sea_mask                              0.4503    0.335  0.456     0.335
log_surface_pressure                       0.1123    1.716  0.1134    1.715
log_surface_pressure_del2                  120.6     0.824  264.6     0.59
log_surface_pressure_dlat                  1.41      0.13   1.656     0.126
log_surface_pressure_dlon                  1.285     0.0    1.645     0.0
pressure                                   1.644     2.796  1.644     2.796
radiation                                  0.2864    0.214  0.2862    0.213
sin_latitude                               0.7057   -0.0    0.7064   -0.0
specific_cloud_ice_water_content           9.111e-06 0.0    9.812e-06 0.0
specific_cloud_ice_water_content_del2      0.03864   0.0    0.08441   0.0
specific_cloud_ice_water_content_dlat      0.0003813 0.0    0.0004684 0.0
specific_cloud_ice_water_content_dlon      0.0003149 -0.0   0.0004646 -0.0
specific_cloud_liquid_water_content        1.897e-05 0.0    2.039e-05 0.0
specific_cloud_liquid_water_content_del2   0.08082  -0.0    0.1802   -0.0
specific_cloud_liquid_water_content_dlat   0.0008049 0.0    0.0009877 0.0
specific_cloud_liquid_water_content_dlon   0.0006388 0.0    0.0009565 -0.0
specific_humidity                          0.003298  0.0    0.003305  0.0
specific_humidity_del2                     2.389     0.0    4.442     0.0
specific_humidity_dlat                     0.02819   0.0    0.0319    0.0
specific_humidity_dlon                     0.021     0.0    0.02678   0.0
temperature_variation                      14.99    -4.946  15.04    -4.98
temperature_variation_del2                 5793.0    47.3   10460.0   43.608
temperature_variation_dlat                 75.47     4.913  82.59     4.843
temperature_variation_dlon                 64.98    -0.0    77.07     0.0
u                                          0.01485   0.007  0.01489   0.007
u_del2                                     13.13     0.187  18.46     0.242
u_dlat                                     1.223     0.002  0.2197    0.002
u_dlon                                     0.1378   -0.0    0.1677    0.0
v                                          0.01017  -0.0    0.01022  -0.0
v_del2                                     11.26    -0.002  17.2     -0.0
v_dlat                                     0.764    -0.0    0.169    -0.0
v_dlon                                     0.1781    0.0    0.2083    0.0
vorticity                                  0.2579   -0.002  0.2831   -0.002
vorticity_del2                             1189.0   -0.37   2831.0   -0.365
vorticity_dlat                             11.67     0.042  14.96     0.041
vorticity_dlon                             9.514    -0.0    14.91     0.0
"""

# Of data on pressure levels; what is not here is as above.
_DATA_STATISTICS = """
specific_cloud_ice_water_content           7.538e-06 0.0    8.255e-06 0.0
specific_cloud_ice_water_content_del2      0.03283  -0.0    0.09943  -0.0
specific_cloud_ice_water_content_dlat      0.0003762 0.0    0.0005741 0.0
specific_cloud_ice_water_content_dlon      0.0002613 -0.0   0.0004452 0.0
specific_cloud_liquid_water_content        1.979e-05 0.0    2.182e-05 0.0
specific_cloud_liquid_water_content_del2   0.08809  -0.0    0.2881   -0.0
specific_cloud_liquid_water_content_dlat   0.001038  0.0    0.001674  0.0
specific_cloud_liquid_water_content_dlon   0.000684 -0.0    0.001224  0.0
specific_humidity                          0.003487  0.0    0.003493  0.0
specific_humidity_del2                     2.381     0.0    5.716     0.0
specific_humidity_dlat                     0.03179   0.0    0.0396    0.0
specific_humidity_dlon                     0.02059   0.0    0.02857   0.0
t                                          28.0    247.07   27.99   247.045
t_del2                                     4397.0   35.964  9788.0   37.572
t_dlat                                     64.14     1.763  71.14     1.755
t_dlon                                     50.07    -0.0    62.14    -0.0
u                                          0.01933   0.007  0.01935   0.007
u_del2                                     12.27     0.045  27.4      0.056
u_dlat                                     0.1743   -0.0    0.1876    0.0
u_dlon                                     0.1296    0.0    0.1712    0.0
v                                          0.01033   0.0    0.01038   0.0
v_del2                                     12.08     0.005  27.11     0.008
v_dlat                                     0.1152    0.0    0.1326    0.0
v_dlon                                     0.1617    0.0    0.1998   -0.0
z                                          0.1496    0.145  0.1496    0.145
z_del2                                     0.332     0.011  0.6108    0.011
z_dlat                                     0.01598   0.001  0.01606   0.001
z_dlon                                     0.008823  0.0    0.009139  0.0
"""

# Of tendencies, without a shift. A line: name, scale at TL127, at TL255.
_TENDENCY_SCALES = """
log_surface_pressure                       0.05008    0.05021
temperature_variation                      33.85      33.94
specific_cloud_ice_water_content           4.471e-05  4.85e-05
specific_cloud_liquid_water_content        8.884e-05  9.693e-05
specific_humidity                          0.00608    0.006182
u                                          0.05839    0.05863
v                                          0.05138    0.0516
"""

# Humidity by level, a factor on the above: of layers, of pressure levels and of
# tendencies on layers, from the top down.
_HUMIDITY = {
    "TL127": (
        """8.824e-05 7.105e-05 0.0001046 0.0001851 0.0007562 0.002625 0.007185
        0.01554 0.02886 0.04613 0.07032 0.09901 0.1344 0.175 0.2226 0.2802 0.3438
        0.4144 0.4684 0.5257 0.5895 0.6645 0.7505 0.8483 0.9499 1.053 1.159 1.274
        1.399 1.552 1.709 1.791""",
        """3.818e-05 5.988e-05 7.108e-05 8.204e-05 8.841e-05 9.115e-05 7.736e-05
        7.213e-05 8.284e-05 9.873e-05 0.0001438 0.0002976 0.001013 0.002753 0.006139
        0.01182 0.02014 0.04587 0.08568 0.1393 0.2085 0.2993 0.4066 0.4914 0.5848
        0.7112 0.8588 0.936 1.013 1.092 1.173 1.257 1.346 1.452 1.58 1.677 1.713""",
        """0.000132 0.0002049 0.000272 0.0004865 0.001441 0.004704 0.01322 0.03009
        0.05781 0.09648 0.1486 0.211 0.2892 0.3729 0.471 0.579 0.6898 0.8158 0.9043
        0.9958 1.102 1.197 1.308 1.427 1.519 1.571 1.599 1.614 1.629 1.656 1.745
        1.841""",
    ),
    "TL255": (
        """8.822e-05 7.126e-05 0.0001047 0.0001858 0.0007601 0.002642 0.007242
        0.01568 0.02907 0.04654 0.07084 0.09971 0.1355 0.1762 0.2243 0.2822 0.3459
        0.4172 0.471 0.5286 0.5932 0.6682 0.7546 0.8532 0.9553 1.058 1.164 1.278
        1.401 1.553 1.709 1.791""",
        """3.823e-05 5.985e-05 7.103e-05 8.198e-05 8.836e-05 9.113e-05 7.745e-05
        7.234e-05 8.308e-05 9.885e-05 0.0001443 0.0002999 0.001019 0.002773 0.006194
        0.01195 0.02037 0.04634 0.08648 0.1406 0.2104 0.3017 0.4097 0.4949 0.5891
        0.716 0.8645 0.9418 1.019 1.098 1.178 1.262 1.35 1.454 1.581 1.677 1.713""",
        """0.0001303 0.0002029 0.0002682 0.0004815 0.001437 0.004719 0.01328 0.03024
        0.05782 0.09671 0.1485 0.2107 0.2892 0.3723 0.4705 0.5785 0.6885 0.8155
        0.9028 0.9944 1.103 1.197 1.31 1.431 1.526 1.58 1.61 1.624 1.634 1.649 1.729
        1.824""",
    ),
}

# Memory's features have the statistics of the state's, but for these.
_MEMORY = (
    "divergence",
    "log_surface_pressure",
    *_TRACERS,
    "temperature_variation",
    "u",
    "v",
    "vorticity",
)
_MEMORY_SCALES = {
    "deterministic_2_8_deg": {
        "log_surface_pressure": 0.1123,
        "specific_humidity": 0.003298,
    }
}
_MEMORY_SHIFTS = {
    "deterministic_2_8_deg": {
        "specific_humidity": 0.003298,
        "temperature_variation": -4.946,
    },
    "deterministic_1_4_deg": {"specific_humidity": 0.003298},
}


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
            others = _MEMORY_SCALES if key.endswith("scales") else _MEMORY_SHIFTS
            for field in _MEMORY:
                x = others.get(name, {}).get(field, statistics[field])
                statistics[f"memory_{field}"] = x
        bindings[key] = dict(sorted(statistics.items()))


def _set_cloud_outputs(bindings: _Bindings) -> None:
    """At 2.8 degrees clouds vary 20 times as much in outputs as in features."""
    for scope in ("decoder", "div_curl_tendency_outputs", "encoder"):
        tracers = bindings[f"{scope}/InverseShiftAndNormalize.scales"]["tracers"]
        for cloud in _TRACERS[:2]:
            tracers[cloud] *= 20


def _set_finer_statistics(bindings: _Bindings, grid: str) -> None:
    """Those of TL127 or TL255."""
    bindings["get_model_specs.reference_temperature"][0] = _TOP_TEMPERATURE
    column = ("TL127", "TL255").index(grid)
    state = {k: x[2 * column :] for k, *x in _lines(_STATE_STATISTICS)}
    data = state | {k: x[2 * column :] for k, *x in _lines(_DATA_STATISTICS)}
    for key in [x for x in bindings if "/ShiftAndNormalize.s" in x]:
        table = data if key.startswith("encoder_data/") else state
        which = 0 if key.endswith("scales") else 1
        for field in bindings[key].keys() & table.keys():
            bindings[key][field] = table[field][which]
    outputs = {
        "encoder": {k: x[0] for k, x in state.items()},
        "decoder": {k: x[0] for k, x in data.items()},
        "div_curl_tendency_outputs": {
            k: x[column] for k, *x in _lines(_TENDENCY_SCALES)
        },
    }
    for scope, table in outputs.items():
        scales = bindings[f"{scope}/InverseShiftAndNormalize.scales"]
        for fields in (scales, scales["tracers"]):
            for field in fields.keys() & table.keys():
                fields[field] = table[field]
    layers, levels, tendencies = (
        [float(x) for x in text.split()] for text in _HUMIDITY[grid]
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


# Checkpoints


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
    inputs |= {"tracers": dict.fromkeys(_TRACERS, column), "diagnostics": {}}
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


@functools.cache
def _mini() -> Published:
    """The official package's toy checkpoint, at TL63."""
    return read_published(_folder() / "tl63_stochastic_mini.pkl")


def _folder() -> pathlib.Path:
    """The official package's data."""
    spec = importlib.util.find_spec("neuralgcm")
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


def statics_on(grid: str) -> dict[str, np.ndarray]:
    """Orography and land of ERA5, such as `write_checkpoint` wants them.

    Args:
      grid: such as "TL63", from which they are regridded conservatively.
    """
    dataset = _regrid(_dataset(_mini().statics), "TL63", grid)
    return {name: dataset[name].values for name in dataset.variables}


def real_inputs(grid: str) -> xarray.Dataset:
    """The ERA5 analysis of 1959-01-02 00z: inputs and forcings of official models.

    Args:
      grid: such as "TL31", from which it is regridded conservatively.
    """
    dataset = xarray.load_dataset(_folder() / "era5_tl31_19590102T00.nc")
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
