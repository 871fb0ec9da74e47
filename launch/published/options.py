"""A published model's configuration as one of ours.

What decides the architecture is read; what has one value in every published model, and
in ours by construction, must have it; what does not change a model's results is left
alone. Anything else is refused by name, so that no option is lost silently.
"""

import re

from ml_collections import ConfigDict

from configs import base
from launch.published.fixed import (
    ENCODERS,
    GROUND,
    LAYER_FIELDS,
    TRACERS,
    check,
    check_fixed,
    unsupported,
)
from launch.published.gin import Gin
from pipeline.errors import UserError

# Names of fields: theirs -> ours.
STATE_NAMES = {"temperature_variation": "temperature"}
DATA_NAMES = {
    "t": "temperature",
    "z": "geopotential",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
}

RANDOM_FIELDS = ("@BatchGaussianRandomFieldModule", "@DictOfGaussianRandomFieldModules")

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
    check_fixed(gin)
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
        raise unsupported("CoordinateSystem.horizontal", horizontal)
    return match[1]


def _model(gin: Gin, model: ConfigDict) -> ConfigDict:
    model = model.copy_and_resolve_references()
    name = "StochasticPhysicsParameterizationStep.num_substeps"
    substeps = gin.get(name)
    if not isinstance(substeps, int) or substeps < 1 or 60 % substeps:
        raise unsupported(name, substeps)
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
        check(gin, f"{part}/MlpUniform.num_hidden_units", model.width)
    check(gin, "encode/MlpUniform.num_hidden_units", 0)
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
    check(gin, "surface_model/EpdTower.latent_size", size)
    for part, units_ in (("process", size), ("decode", size), ("encode", 0)):
        check(gin, f"surface_model_{part}/MlpUniform.num_hidden_units", units_)
    model.positional = gin.get("advance/LearnedPositionalFeatures.latent_size")
    for tower in ("encoder_data", "decoder_model"):
        check(gin, f"{tower}/LearnedPositionalFeatures.latent_size", model.positional)
    encoder = gin.get("StochasticModularStepModel.encoder_module")
    if encoder not in ENCODERS:
        raise unsupported("StochasticModularStepModel.encoder_module", encoder)
    model.memory = ENCODERS[encoder]
    model.noise = _noise(gin, encoder, model.step_minutes)
    _check_physics_features(gin, model)
    model.learned_orography = _orography(gin, encoder)
    model.orography_scale = gin.get("LearnedOrography.correction_scale")
    return model


def _dycore_grid(gin: Gin) -> str:
    """The core's waves, on points in mirror pairs, at least as many as published."""
    reference = gin.get("custom_corrds/CoordinateSystem.horizontal")
    scope = reference.removeprefix("@").removesuffix("()")
    if not scope.endswith("GridWithWavenumbers"):
        raise unsupported("custom_corrds/CoordinateSystem.horizontal", reference)
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
        raise unsupported(f"{scope}/ExponentialFilter.tau", f"{tau} {unit}")
    order, cutoff = (
        gin.get(f"{scope}/ExponentialFilter.{name}") for name in ("order", "cutoff")
    )
    return float(tau), order, float(cutoff)


def _encoder_filters(gin: Gin) -> tuple[tuple[str, float, int, float], ...]:
    transforms = gin.get("EncoderCombinedTransform.transforms")
    if transforms == ("@InputClipTransform",):
        return ()
    if transforms != ("@InputClipTransform", "@EncoderFilterTransform"):
        raise unsupported("EncoderCombinedTransform.transforms", transforms)
    filters = gin.get("EncoderFilterTransform.filter_modules")
    if filters == ("@PerVariableDataFilter",):
        by_field = gin.get("PerVariableDataFilter.per_variable_filters")
        by_field = by_field | by_field.pop("tracers")
        if by_field.pop("sim_time", "@DataNoFilter") != "@DataNoFilter":
            raise unsupported("PerVariableDataFilter.per_variable_filters", "sim_time")
    elif len(filters) == 1:
        by_field = {"all": filters[0]}
    else:
        raise unsupported("EncoderFilterTransform.filter_modules", filters)
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
    others = set(modules) - set(fields) - set(GROUND) - {"@RandomnessFeatures"}
    if len(fields) != 1 or others or not set(GROUND) <= set(modules):
        raise unsupported(name, modules)
    scope = fields[0].removeprefix("@")
    included = None
    if f"{scope}.fields_to_include" in gin:
        included = gin.get(f"{scope}.fields_to_include")
    gradients = f"{scope}.compute_gradients_module" in gin
    if gradients:
        check(gin, f"{scope}.compute_gradients_module", "@ToModalDiffOperators")
    if included is None:
        included = [*LAYER_FIELDS, *TRACERS, "log_surface_pressure"]
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
        raise unsupported(" and ".join(names), modules)
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
        raise unsupported(
            "StochasticPhysicsParameterizationStep.randomness_module",
            f"{advance}, with {encode} in the encoder",
        )
    module = advance[1:]
    lengths, times = (
        [_number(x, unit) for x in gin.get(f"{module}.initial_correlation_{name}")]
        for name, unit in (("lengths", "km"), ("times", "hours"))
    )
    if set(gin.get(f"{module}.variances")) != {1.0}:
        raise unsupported(f"{module}.variances", gin.get(f"{module}.variances"))
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
        *GROUND,
        "@EmbeddingSurfaceFeatures",
        "@EmbeddingVolumeFeatures",
        "@PressureFeatures",
        "@advance/VelocityAndPrognostics",
    }
    expected |= {"@MemoryVelocityAndValues"} if model.memory else set()
    expected |= {"@RandomnessFeatures"} if model.noise else set()
    modules = gin.get(name)
    if set(modules) != expected:
        raise unsupported(name, sorted(expected ^ set(modules)))


def _orography(gin: Gin, encoder: str) -> tuple[str, ...]:
    modules = {
        "encoder": f"{encoder[1:]}.orography_module",
        "core": "MoistPrimitiveEquationsWithCloudMoisture.orography_module",
        "decoder": "DimensionalLearnedPrimitiveToWeatherbenchDecoder.orography_module",
    }
    for name in modules.values():
        if gin.get(name) not in ("@LearnedOrography", "@FilteredCustomOrography"):
            raise unsupported(name, gin.get(name))
    return tuple(
        place for place, name in modules.items() if gin.get(name) == "@LearnedOrography"
    )
