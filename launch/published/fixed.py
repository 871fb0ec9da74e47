"""What has one value in every published model, and in ours by construction.

An option that is listed here must have its value wherever it is given.
"""

from typing import Any

from launch.published.gin import Gin
from pipeline.errors import UserError

# Whether they make a memory.
ENCODERS = {
    "@DimensionalLearnedWeatherbenchToPrimitiveEncoder": False,
    "@DimensionalLearnedWeatherbenchToPrimitiveWithMemoryEncoder": True,
}
# How features are transformed, one after another.
_TRANSFORMS = {
    "advance": ("ShiftAndNormalize", "InverseLevelScale", "TruncateSigmaLevels", None),
    "decoder_model": ("ShiftAndNormalize", "InverseLevelScale", "TruncateSigmaLevels"),
    "encoder_data": ("ShiftAndNormalize", "InverseLevelScale"),
}

GROUND = (
    "@RadiationFeatures",
    "@LatitudeFeatures",
    "@with_grads/FloatDataFeatures",
    "@without_grads/FloatDataFeatures",
    "@LearnedPositionalFeatures",
)
TRACERS = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
    "specific_humidity",
)
LAYER_FIELDS = ("divergence", "vorticity", "u", "v", "temperature_variation")
_HUMID = [f"specific_humidity{suffix}" for suffix in ("", "_del2", "_dlat", "_dlon")]


def _mask(*names: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Which fields a network corrects: all but the time, and `without`."""
    mask = dict.fromkeys(names, True) | dict.fromkeys(("sim_time", *without), False)
    return mask | {"tracers": dict.fromkeys(TRACERS, True)}


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
        *LAYER_FIELDS,
        "log_surface_pressure",
        *("specific_humidity", *TRACERS[1::-1]),
    ],
    "advance/VelocityAndPrognostics.compute_gradients_module": "@ToModalDiffOperators",
    "advance/MemoryVelocityAndValues.fields_to_include": None,
    "encoder_data/VelocityAndPrognostics.fields_to_include": [
        *"uvtz",
        *("specific_humidity", *TRACERS[1::-1]),
    ],
    "encoder_data/VelocityAndPrognostics.compute_gradients_module": (
        "@ToModalDiffOperators"
    ),
    "encoder_data/CombinedFeatures.feature_modules": (
        *GROUND[:2],
        "@encoder_data/VelocityAndPrognostics",
        *GROUND[2:],
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
        *LAYER_FIELDS,
        *("specific_humidity", *TRACERS[1::-1]),
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
        *("specific_humidity", *TRACERS[1::-1]),
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
        f"@{_name}/{t}" if t else "@SoftClip" for t in _TRANSFORMS[_name]
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


def check_fixed(gin: Gin) -> None:
    """Every option that must have a certain value has it, or UserError is raised."""
    for name in sorted(gin.values):
        if name in _FIXED:
            check(gin, name, _FIXED[name])
        else:
            for end, value in _FIXED_ENDS.items():
                if name.endswith(end):
                    check(gin, name, value)
        if name.endswith("TruncateSigmaLevels.sigma_ranges"):
            if any(tuple(r) != (0, 1) for r in gin.get(name).values()):
                raise unsupported(name, gin.get(name))


def check(gin: Gin, name: str, value: Any) -> None:
    """The option has this value, or UserError is raised."""
    found = gin.get(name)
    in_order = "transform" in name or "filter" in name
    if _plain(found, in_order) != _plain(value, in_order):
        raise unsupported(name, found)


def _plain(value: Any, in_order: bool) -> Any:
    """Tuples as lists; unless they are `in_order`, sorted, as sets of features are."""
    if isinstance(value, tuple | list):
        return list(value) if in_order else sorted(value)
    return value


def unsupported(name: str, value: Any) -> UserError:
    """The error of an option with a value that our model does not have."""
    return UserError(
        f"the checkpoint uses an option that is not supported: {name} = {value}"
    )
