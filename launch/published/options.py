"""A published model's configuration as one of ours.

What decides the architecture is read; what has one value in every published model, and
in ours by construction, must have it; what does not change a model's results is left
alone. Anything else is refused by name, so that no option is lost silently.
"""

import re
from typing import Any

from ml_collections import ConfigDict

from configs import base
from launch.published.gin import Gin
from model import units
from pipeline.errors import UserError

# Names of fields: theirs -> ours.
STATE_NAMES = {"temperature_variation": "temperature"}
DATA_NAMES = {
    "t": "temperature",
    "z": "geopotential",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
}

ENCODERS = {
    "@DimensionalLearnedWeatherbenchToPrimitiveEncoder": False,
    "@DimensionalLearnedWeatherbenchToPrimitiveWithMemoryEncoder": True,
}
RANDOM_FIELDS = ("@BatchGaussianRandomFieldModule", "@DictOfGaussianRandomFieldModules")

# How features are transformed, one after another.
TRANSFORMS = {
    "advance": ("ShiftAndNormalize", "InverseLevelScale", "TruncateSigmaLevels", None),
    "decoder_model": ("ShiftAndNormalize", "InverseLevelScale", "TruncateSigmaLevels"),
    "encoder_data": ("ShiftAndNormalize", "InverseLevelScale"),
}

_GROUND = (
    "@RadiationFeatures",
    "@LatitudeFeatures",
    "@with_grads/FloatDataFeatures",
    "@without_grads/FloatDataFeatures",
    "@LearnedPositionalFeatures",
)
_TRACERS = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
    "specific_humidity",
)
_LAYER_FIELDS = ("divergence", "vorticity", "u", "v", "temperature_variation")
_HUMID = [f"specific_humidity{suffix}" for suffix in ("", "_del2", "_dlat", "_dlon")]


def _mask(*names: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Which fields a network corrects: all but the time, and `without`."""
    mask = dict.fromkeys(names, True) | dict.fromkeys(("sim_time", *without), False)
    return mask | {"tracers": dict.fromkeys(_TRACERS, True)}


# Must have these values where they are given. Lists and tuples are the same.
_FIXED: dict[str, Any] = {
    "gelu.approximate": True,
    # The step.
    "StochasticModularStepModel.advance_module": (
        "@StochasticPhysicsParameterizationStep"
    ),
    "StochasticModularStepModel.decoder_module": (
        "@DimensionalLearnedPrimitiveToWeatherbenchDecoder"
    ),
    "StochasticModularStepModel.forcing_module": "@DynamicDataForcing",
    "StochasticPhysicsParameterizationStep.corrector_module": "@CustomCoordsCorrector",
    "StochasticPhysicsParameterizationStep.physics_parameterization_module": (
        "@DivCurlNeuralParameterization"
    ),
    "CustomCoordsCorrector.corrector_module": "@DycoreWithPhysicsCorrector",
    "CustomCoordsCorrector.custom_coords": "@custom_corrds/CoordinateSystem()",
    "CoordinateSystem.vertical": "@SigmaCoordinatesEquidistant()",
    "custom_corrds/CoordinateSystem.vertical": "@SigmaCoordinatesEquidistant()",
    "DycoreWithPhysicsCorrector.dycore_equation_module": (
        "@MoistPrimitiveEquationsWithCloudMoisture"
    ),
    "DycoreWithPhysicsCorrector.filter_module": "@dycore/SequentialStepFilter",
    "DycoreWithPhysicsCorrector.time_integrator": "@imex_rk_sil3",
    "MoistPrimitiveEquationsWithCloudMoisture.include_vertical_advection": True,
    "DivCurlNeuralParameterization.filter_module": "@ml/SequentialStepFilter",
    "DivCurlNeuralParameterization.prediction_mask": _mask(
        *("divergence", "temperature_variation", "vorticity"),
        without=("log_surface_pressure",),
    ),
    "get_model_specs.model_time_step": "1 hour",
    "get_model_specs.custom_coords": "@CoordinateSystem()",
    "get_physics_specs.construct_fn": "@primitive_eq_specs_constructor",
    "primitive_eq_specs_constructor.scale": "@GET_ATMOSPHERIC_SCALE()",
    # Features.
    "DivCurlNeuralParameterization.modal_to_nodal_features_module": (
        "@advance/CombinedFeatures"
    ),
    "advance/VelocityAndPrognostics.fields_to_include": [
        *_LAYER_FIELDS,
        "log_surface_pressure",
        *("specific_humidity", *_TRACERS[1::-1]),
    ],
    "advance/VelocityAndPrognostics.compute_gradients_module": "@ToModalDiffOperators",
    "advance/MemoryVelocityAndValues.fields_to_include": None,
    "encoder_data/VelocityAndPrognostics.fields_to_include": [
        *"uvtz",
        *("specific_humidity", *_TRACERS[1::-1]),
    ],
    "encoder_data/VelocityAndPrognostics.compute_gradients_module": (
        "@ToModalDiffOperators"
    ),
    "encoder_data/CombinedFeatures.feature_modules": (
        *_GROUND[:2],
        "@encoder_data/VelocityAndPrognostics",
        *_GROUND[2:],
    ),
    "encoder_model/CombinedFeatures.feature_modules": ("@RandomnessFeatures",),
    "encoder_model/CombinedFeatures.features_transform_module": (
        "@encoder_model/SequentialTransform"
    ),
    "encoder_model/SequentialTransform.transform_modules": (
        "@encoder_model/ShiftAndNormalize",
    ),
    "with_grads/FloatDataFeatures.compute_gradients_module": "@ToModalDiffOperators",
    "with_grads/FloatDataFeatures.covariate_keys": ("geopotential_at_surface",),
    "without_grads/FloatDataFeatures.covariate_keys": ("land_sea_mask",),
    "advance/SoftClip.hinge_softness": 1.0,
    "advance/SoftClip.max_value": 16,
    "DECODE_RANDOMNESS_MODULE": "@NoRandomField",
    "DimensionalLearnedPrimitiveToWeatherbenchDecoder.randomness_module": (
        "@NoRandomField"
    ),
    "DimensionalLearnedPrimitiveToWeatherbenchDecoder.modal_to_nodal_data_features"
    "_module": "@NullFeatures",
    "DimensionalLearnedPrimitiveToWeatherbenchDecoder.modal_to_nodal_model_features"
    "_module": "@decoder_model/CombinedFeatures",
    "DimensionalLearnedPrimitiveToWeatherbenchDecoder.correction_transform_module": (
        "@decoder/SequentialTransform"
    ),
    "DimensionalLearnedPrimitiveToWeatherbenchDecoder.prediction_mask": _mask(*"tuvz"),
    "DivCurlNeuralParameterization.tendency_transform_module": (
        "@div_curl_tendency_outputs/SequentialTransform"
    ),
    # Embeddings.
    "advance/EmbeddingSurfaceFeatures.embedding_module": "@NodalLandSeaIceEmbedding",
    "advance/EmbeddingSurfaceFeatures.feature_name": "surface_embedding",
    "advance/EmbeddingVolumeFeatures.embedding_module": "@ModalToNodalEmbedding",
    "advance/EmbeddingVolumeFeatures.feature_name": "CNN1D",
    "advance/ModalToNodalEmbedding.modal_to_nodal_features_module": (
        "@embedding_model/CombinedFeatures"
    ),
    "advance/ModalToNodalEmbedding.nodal_mapping_module": "@NodalVolumeMapping",
    "NodalVolumeMapping.tower_factory": "@VerticalConvTower",
    "embedding_model/CombinedFeatures.feature_modules": (
        "@embedding_model/VelocityAndPrognostics",
        "@PressureFeatures",
    ),
    "embedding_model/VelocityAndPrognostics.fields_to_include": [
        *_LAYER_FIELDS,
        *("specific_humidity", *_TRACERS[1::-1]),
    ],
    "advance/NodalLandSeaIceEmbedding.sea_embedding": (
        "@sea_model/ModalToNodalEmbedding"
    ),
    "sea_model/CombinedFeatures.feature_modules": ("@sea_model/ForcingFeatures",),
    "sea_model/ForcingFeatures.forcing_to_include": ("sea_surface_temperature",),
    "sea_ice_model/ForcingFeatures.forcing_to_include": ("sea_ice_cover",),
    "land_model/CombinedFeatures.feature_modules": (
        "@land_model/VelocityAndPrognostics",
    ),
    "sea_ice_model/CombinedFeatures.feature_modules": (
        "@sea_ice_model/VelocityAndPrognostics",
        "@sea_ice_model/ForcingFeatures",
    ),
    "VerticalConvTower.activate_final": False,
    "VerticalConvTower.with_bias": True,
    # Coders.
    "InputClipTransform.wavenumbers_to_clip": 1,
    "LearnedOrography.base_orography_module": "@FilteredCustomOrography",
    "FilteredCustomOrography.filter_modules": ("@orography/DataExponentialFilter",),
    "orography/DataExponentialFilter.attenuation": 0,
    "MoistPrimitiveEquationsWithCloudMoisture.orography_module": "@LearnedOrography",
    "dycore/SequentialStepFilter.filter_modules": (
        "@dycore/ExponentialFilter",
        "@stability/ExponentialFilter",
    ),
    "ml/SequentialStepFilter.filter_modules": ("@stability/ExponentialFilter",),
    # Towers.
    "NodalMapping.tower_factory": "@EpdTower",
    "surface_model/EpdTower.num_process_blocks": 1,
    "xarray_to_dynamic_covariate_data.covariates_to_include": (
        *("sea_ice_cover", "sea_surface_temperature"),
    ),
    "xarray_to_weatherbench_data.diagnostics_to_include": (),
    "xarray_to_weatherbench_data.tracers_to_include": (
        *("specific_humidity", *_TRACERS[1::-1]),
    ),
}
for _tower in ("", "surface_model/"):
    _prefix = _tower.replace("/", "_")
    for _part, _layers, _bias in [
        ("encode", 0, True),
        ("process", 3, True),
        ("decode", 1 if _tower else 0, False),
    ]:
        _FIXED |= {
            f"{_tower}EpdTower.{_part}_tower_factory": f"@{_prefix}{_part}/ColumnTower",
            f"{_prefix}{_part}/ColumnTower.column_net_factory": (
                f"@{_prefix}{_part}/MlpUniform"
            ),
            f"{_prefix}{_part}/MlpUniform.activate_final": False,
            f"{_prefix}{_part}/MlpUniform.with_bias": _bias,
        }
        if _part != "process" or _tower:
            _FIXED[f"{_prefix}{_part}/MlpUniform.num_hidden_layers"] = _layers
    for _where in ("final", "post_encode", "pre_decode"):
        _FIXED[f"{_tower}EpdTower.{_where}_activation"] = None
for _model in ("land", "sea", "sea_ice"):
    _FIXED |= {
        f"{_model}_model/ModalToNodalEmbedding.modal_to_nodal_features_module": (
            f"@{_model}_model/CombinedFeatures"
        ),
        f"{_model}_model/ModalToNodalEmbedding.nodal_mapping_module": (
            f"@{_model}_model/NodalMapping"
        ),
        f"{_model}_model/NodalMapping.tower_factory": "@surface_model/EpdTower",
        f"{_model}_model/VelocityAndPrognostics.fields_to_include": [
            *("temperature_variation", "specific_humidity")
        ],
        f"{_model}_model/VelocityAndPrognostics.features_transform_module": (
            "@TakeSurfaceAdjacentSigmaLevel"
        ),
    }
for _encoder, _memory in ENCODERS.items():
    _FIXED |= {
        f"{_encoder[1:]}.{name}": value
        for name, value in {
            "correction_transform_module": "@encode/SequentialTransform",
            "modal_to_nodal_data_features_module": "@encoder_data/CombinedFeatures",
            "modal_to_nodal_model_features_module": (
                "@NullFeatures" if _memory else "@encoder_model/CombinedFeatures"
            ),
            "prediction_mask": _mask(
                *("divergence", "log_surface_pressure", "temperature_variation"),
                "vorticity",
            ),
            "transform_module": "@EncoderCombinedTransform",
        }.items()
    }
for _name, _scales in [
    ("encode", "encoder"),
    ("decoder", "decoder"),
    ("div_curl_tendency_outputs", "div_curl_tendency_outputs"),
]:
    _FIXED[f"{_name}/SequentialTransform.transform_modules"] = (
        f"@{_scales}/InverseShiftAndNormalize",
        f"@{_name}/LevelScale",
    )
    _FIXED[f"{_name}/LevelScale.keys_to_scale"] = ["specific_humidity"]
for _name in ("advance", "decoder_model", "encoder_data"):
    _FIXED[f"{_name}/InverseLevelScale.keys_to_scale"] = _HUMID
    _FIXED[f"{_name}/CombinedFeatures.features_transform_module"] = (
        f"@{_name}/SequentialTransform"
    )
    _FIXED[f"{_name}/LearnedPositionalFeatures.scale"] = 1.0
    _FIXED[f"{_name}/SequentialTransform.transform_modules"] = tuple(
        f"@{_name}/{t}" if t else "@SoftClip" for t in TRANSFORMS[_name]
    )
for _model in ("embedding_model", "land_model", "sea_model", "sea_ice_model"):
    _FIXED[f"{_model}/CombinedFeatures.features_transform_module"] = (
        f"@{_model}/ShiftAndNormalize"
    )

# By the end of a name; must have these values too.
_FIXED_ENDS: dict[str, Any] = {
    "CombinedFeatures.feature_module_names_to_exclude": (),
    "CombinedFeatures.features_to_exclude": (),
    "/ShiftAndNormalize.features_to_exclude": (),
    "/ShiftAndNormalize.global_scale": None,
    "ModalToNodalEmbedding.output_transform_module": "@IdentityTransform",
    ".nodal_mapping_module": "@NodalMapping",
    ".activation": "@gelu",
    "GridWithWavenumbers.dealiasing": "quadratic",
    "GridWithWavenumbers.latitude_spacing": "gauss",
    "GridWithWavenumbers.longitude_offset": 0.0,
    "GridWithWavenumbers.radius": None,
    "GaussianRandomFieldModule.clip": 6.0,
    "GaussianRandomFieldModules.clip": 6.0,
    ".time_axis": 0,
    "static_vars_ds_path": None,
    "covariate_data_path": None,
    "orography_data_path": None,
}

# Do not change what a model computes: names, memory, precision, files, initial values.
_WITHOUT_EFFECT = re.compile(
    r"\.name$|checkpoint|precision|\.(b|w)_init(_final)?$|renaming|^[A-Z_0-9]+$|"
    r"RealSphericalHarmonics|spherical_harmonics_impl|coordinate_system_from_dataset|"
    r"xarray|^WhirlModel|inputs_to_units_mapping|^DynamicDataForcing|prefer_nodal|"
    r"reference_datetime_str|orography/DataExponentialFilter|field_names"
)


def model_config(gin: Gin) -> ConfigDict:
    """A configuration whose `model` is the published one; `data.grid` is its grid.

    Raises:
      UserError: if it has an option that is not supported, by its name.
    """
    config = base.get_config()
    config.model = _model(gin, config.model)
    config.data.grid = _grid(gin)
    _check_fixed(gin)
    statistics = re.compile(
        r"ShiftAndNormalize\.(scales|shifts|global_scale)|LevelScale\.scales"
    )
    unknown = [
        name
        for name in gin.unseen()
        if not _WITHOUT_EFFECT.search(name) and not statistics.search(name)
    ]
    if unknown:
        raise UserError(
            f"the checkpoint uses options that are not supported: {', '.join(unknown)}"
        )
    return config


def _grid(gin: Gin) -> str:
    horizontal = gin.get("CoordinateSystem.horizontal")
    match = re.fullmatch(r"@Grid(TL\d+)\(\)", horizontal)
    if match is None:
        raise _unsupported("CoordinateSystem.horizontal", horizontal)
    return match[1]


def _model(gin: Gin, model: ConfigDict) -> ConfigDict:
    model = model.copy_and_resolve_references()
    substeps = gin.get("StochasticPhysicsParameterizationStep.num_substeps")
    model.step_minutes = 60 // substeps
    model.substeps = gin.get("DycoreWithPhysicsCorrector.dycore_substeps")
    model.layers = gin.get("SigmaCoordinatesEquidistant.layers")
    if "custom_corrds/SigmaCoordinatesEquidistant.layers" in gin:
        gin.get("custom_corrds/SigmaCoordinatesEquidistant.layers")
    model.dycore_grid = _dycore_grid(gin)
    model.reference_temperature = tuple(
        gin.get("get_model_specs.reference_temperature")
    )
    model.geopotential_interpolation = "sigma"
    model.as_published = True
    step_filter, stability = (
        _step_filter(gin, name) for name in ("dycore", "stability")
    )
    # They act with the strength of a whole step after every substep.
    model.filters = tuple(
        (tau / model.substeps, order, cutoff)
        for tau, order, cutoff in (step_filter, stability)
    )
    model.tendency_filters = (stability,)
    model.encoder_filters = _encoder_filters(gin)

    model.width = gin.get("EpdTower.latent_size")
    for part in ("process", "decode"):
        _check(gin, f"{part}/MlpUniform.num_hidden_units", model.width)
    _check(gin, "encode/MlpUniform.num_hidden_units", 0)
    model.blocks = gin.get("EpdTower.num_process_blocks")
    model.hidden_layers = gin.get("process/MlpUniform.num_hidden_layers")
    model.encoder_gradients = model.physics_gradients = True
    model.decoder_fields, model.decoder_gradients = _decoder_features(gin)
    channels = gin.get("VerticalConvTower.channels")
    features = gin.get("advance/EmbeddingVolumeFeatures.output_size")
    model.convolution = (*channels, features)
    model.convolution_window = gin.get("VerticalConvTower.kernel_shape")
    model.surface = _surface(gin)
    model.surface_features = gin.get("advance/EmbeddingSurfaceFeatures.output_size")
    size = model.surface_features
    _check(gin, "surface_model/EpdTower.latent_size", size)
    for part, units_ in (("process", size), ("decode", size), ("encode", 0)):
        _check(gin, f"surface_model_{part}/MlpUniform.num_hidden_units", units_)
    model.positional = gin.get("advance/LearnedPositionalFeatures.latent_size")
    for tower in ("encoder_data", "decoder_model"):
        _check(gin, f"{tower}/LearnedPositionalFeatures.latent_size", model.positional)
    encoder = gin.get("StochasticModularStepModel.encoder_module")
    if encoder not in ENCODERS:
        raise _unsupported("StochasticModularStepModel.encoder_module", encoder)
    model.memory = ENCODERS[encoder]
    model.noise = _noise(gin, encoder, model.step_minutes)
    _check_physics_features(gin, model)
    model.learned_orography = _orography(gin, encoder)
    scale = gin.get("LearnedOrography.correction_scale")  # of the height
    model.orography_scale = float(scale * units.GRAVITY)
    return model


def _dycore_grid(gin: Gin) -> str:
    """The core's waves, on points in mirror pairs, at least as many as published."""
    reference = gin.get("custom_corrds/CoordinateSystem.horizontal")
    scope = reference.removeprefix("@").removesuffix("()")
    if not scope.endswith("GridWithWavenumbers"):
        raise _unsupported("custom_corrds/CoordinateSystem.horizontal", reference)
    name = f"{scope}.longitude_wavenumbers"
    if name not in gin:  # bound within the macro's own scope
        name = f"DYCORE_GRID/{name}"
    waves = gin.get(name)
    latitudes = -(-(3 * waves + 1) // 2)
    latitudes += -latitudes % 16
    return f"{waves - 1}@{2 * latitudes}x{latitudes}"


def _step_filter(gin: Gin, scope: str) -> tuple[float, int, float]:
    tau, unit = gin.get(f"{scope}/ExponentialFilter.tau").split()
    if unit != "minutes":
        raise _unsupported(f"{scope}/ExponentialFilter.tau", f"{tau} {unit}")
    order, cutoff = (
        gin.get(f"{scope}/ExponentialFilter.{name}") for name in ("order", "cutoff")
    )
    return float(tau), order, float(cutoff)


def _encoder_filters(gin: Gin) -> tuple[tuple[str, float, int, float], ...]:
    transforms = gin.get("EncoderCombinedTransform.transforms")
    if transforms == ("@InputClipTransform",):
        return ()
    if transforms != ("@InputClipTransform", "@EncoderFilterTransform"):
        raise _unsupported("EncoderCombinedTransform.transforms", transforms)
    filters = gin.get("EncoderFilterTransform.filter_modules")
    if filters == ("@PerVariableDataFilter",):
        by_field = gin.get("PerVariableDataFilter.per_variable_filters")
        by_field = by_field | by_field.pop("tracers")
        if by_field.pop("sim_time", "@DataNoFilter") != "@DataNoFilter":
            raise _unsupported("PerVariableDataFilter.per_variable_filters", "sim_time")
    elif len(filters) == 1:
        by_field = {"all": filters[0]}
    else:
        raise _unsupported("EncoderFilterTransform.filter_modules", filters)
    found = []
    for field, reference in by_field.items():
        if reference == "@DataNoFilter":
            continue
        scope = reference.removeprefix("@")
        attenuation, order, cutoff = (
            gin.get(f"{scope}.{name}") for name in ("attenuation", "order", "cutoff")
        )
        name = STATE_NAMES.get(field, field)
        found.append((name, float(attenuation), order, float(cutoff)))
    return tuple(found)


def _decoder_features(gin: Gin) -> tuple[tuple[str, ...], bool]:
    """Which fields the decoder sees, and whether with derivatives.

    A module without a scope of its own sees all fields, and no derivatives.
    """
    name = "decoder_model/CombinedFeatures.feature_modules"
    modules = list(gin.get(name))
    fields = [m for m in modules if m.endswith("/VelocityAndPrognostics")]
    others = set(modules) - set(fields) - set(_GROUND) - {"@RandomnessFeatures"}
    if len(fields) != 1 or others or not set(_GROUND) <= set(modules):
        raise _unsupported(name, modules)
    scope = fields[0].removeprefix("@")
    included = None
    if f"{scope}.fields_to_include" in gin:
        included = gin.get(f"{scope}.fields_to_include")
    gradients = f"{scope}.compute_gradients_module" in gin
    if gradients:
        _check(gin, f"{scope}.compute_gradients_module", "@ToModalDiffOperators")
    if included is None:
        included = [*_LAYER_FIELDS, *_TRACERS, "log_surface_pressure"]
    return tuple(STATE_NAMES.get(x, x) for x in included), gradients


def _surface(gin: Gin) -> str:
    names = [
        f"advance/NodalLandSeaIceEmbedding.{x}_embedding" for x in ("land", "sea_ice")
    ]
    modules = tuple(gin.get(name) for name in names)
    kinds = {
        (None, None): "constant",
        (
            "@land_model/ModalToNodalEmbedding",
            "@sea_ice_model/ModalToNodalEmbedding",
        ): "air",
    }
    if modules not in kinds:
        raise _unsupported(" and ".join(names), modules)
    return kinds[modules]


def _noise(
    gin: Gin, encoder: str, step_minutes: int
) -> tuple[tuple[float, float], ...]:
    """Lengths in km and times in h of the random fields."""
    advance = gin.get("StochasticPhysicsParameterizationStep.randomness_module")
    encode = "@ZerosRandomField"
    if f"{encoder[1:]}.randomness_module" in gin:
        encode = gin.get(f"{encoder[1:]}.randomness_module")
    if advance == encode == "@ZerosRandomField":
        return ()
    if advance not in RANDOM_FIELDS or advance != encode:
        raise _unsupported(
            "StochasticPhysicsParameterizationStep.randomness_module",
            f"{advance}, with {encode} in the encoder",
        )
    module = advance[1:]
    lengths, times = (
        [_number(x, unit) for x in gin.get(f"{module}.initial_correlation_{name}")]
        for name, unit in (("lengths", "km"), ("times", "hours"))
    )
    if set(gin.get(f"{module}.variances")) != {1.0}:
        raise _unsupported(f"{module}.variances", gin.get(f"{module}.variances"))
    subset = gin.get(f"{module}.field_subset")
    # The published fields evolve by an hour in every physics step, however long it is.
    faster = step_minutes / 60
    return tuple((lengths[i], times[i] * faster) for i in subset)


def noise_names(gin: Gin) -> tuple[str, ...]:
    """Names of the random fields, if each is a module of its own."""
    module = "DictOfGaussianRandomFieldModules"
    if f"{module}.field_subset" not in gin:
        return ()
    names = gin.get(f"{module}.field_names")
    return tuple(names[i] for i in gin.get(f"{module}.field_subset"))


def _number(text: str, unit: str) -> float:
    number, found = text.split()
    if found != unit:
        raise UserError(f"the checkpoint's {text!r} is not in {unit}")
    return float(number)


def _check_physics_features(gin: Gin, model: ConfigDict) -> None:
    name = "advance/CombinedFeatures.feature_modules"
    expected = {
        *_GROUND,
        "@EmbeddingSurfaceFeatures",
        "@EmbeddingVolumeFeatures",
        "@PressureFeatures",
        "@advance/VelocityAndPrognostics",
    }
    expected |= {"@MemoryVelocityAndValues"} if model.memory else set()
    expected |= {"@RandomnessFeatures"} if model.noise else set()
    modules = gin.get(name)
    if set(modules) != expected:
        raise _unsupported(name, sorted(expected ^ set(modules)))


def _orography(gin: Gin, encoder: str) -> tuple[str, ...]:
    modules = {
        "encoder": f"{encoder[1:]}.orography_module",
        "core": "MoistPrimitiveEquationsWithCloudMoisture.orography_module",
        "decoder": "DimensionalLearnedPrimitiveToWeatherbenchDecoder.orography_module",
    }
    for name in modules.values():
        if gin.get(name) not in ("@LearnedOrography", "@FilteredCustomOrography"):
            raise _unsupported(name, gin.get(name))
    return tuple(
        place for place, name in modules.items() if gin.get(name) == "@LearnedOrography"
    )


def _check_fixed(gin: Gin) -> None:
    for name in sorted(gin.values):
        if name in _FIXED:
            _check(gin, name, _FIXED[name])
        else:
            for end, value in _FIXED_ENDS.items():
                if name.endswith(end):
                    _check(gin, name, value)
        if name.endswith("TruncateSigmaLevels.sigma_ranges"):
            if any(tuple(r) != (0, 1) for r in gin.get(name).values()):
                raise _unsupported(name, gin.get(name))


def _check(gin: Gin, name: str, value: Any) -> None:
    found = gin.get(name)
    in_order = "transform" in name or "filter" in name
    if _plain(found, in_order) != _plain(value, in_order):
        raise _unsupported(name, found)


def _plain(value: Any, in_order: bool) -> Any:
    """Tuples as lists; unless they are `in_order`, sorted, as sets of features are."""
    if isinstance(value, tuple | list):
        return list(value) if in_order else sorted(value)
    return value


def _unsupported(name: str, value: Any) -> UserError:
    return UserError(
        f"the checkpoint uses an option that is not supported: {name} = {value}"
    )
