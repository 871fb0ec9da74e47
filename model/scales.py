"""Scales: what makes the inputs and outputs of the networks of order one.

They come from the data (`train.calibration`) or with published weights, are constant
in training and belong to a checkpoint as much as the parameters do. Which features a
network has, and how many numbers each of them is, is told here too.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model.spec import (
    COLUMN_FIELDS,
    DERIVATIVES,
    LAYER_FIELDS,
    LEVEL_VARIABLES,
    STATE_FIELDS,
    SURFACE_VARIABLES,
    TENDENCY_FIELDS,
    TRACERS,
    ModelSpec,
)

# Horizontal derivatives, as they end the name of a field: by longitude and latitude
# (both with 1 / cos(latitude) as it belongs to a gradient), and the Laplacian.
GROUND = (
    "land_sea_mask",
    "surface_geopotential",
    *(f"surface_geopotential_{d}" for d in DERIVATIVES),
    "solar_flux",
    "cos_latitude",
    "sin_latitude",
)
AIR = ("u", "v", "temperature", TRACERS[0])  # of the lowest layer, over land and ice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal:
    """Mean and standard deviation of a field, each [level] (or [1] of a surface)."""

    mean: jax.Array
    std: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scales:
    """All in model units, float32.

    Attributes:
      inputs: of every network's features, by network and name. Features enter in the
        order of their names.
      outputs: what a network's outputs are multiplied by, by network and name, each
        [level]. Outputs leave in the order of their names.
      data_change: standard deviation of 24-h differences of `LEVEL_VARIABLES` by name,
        each [level].
      column_change: the same of `COLUMN_FIELDS`, each [layer] or [1].
    """

    inputs: dict[str, dict[str, Normal]]
    outputs: dict[str, dict[str, jax.Array]]
    data_change: dict[str, jax.Array]
    column_change: dict[str, jax.Array]


def input_sizes(spec: ModelSpec) -> dict[str, dict[str, int]]:
    """How many numbers each feature is, by network and name."""
    n, layers, levels = spec.networks, spec.sigma.layers, len(spec.levels)
    ground = dict.fromkeys(GROUND, 1)
    if n.surface == "raw":
        ground |= dict.fromkeys(SURFACE_VARIABLES, 1)
    columns = dict.fromkeys(LAYER_FIELDS, layers) | {"log_surface_pressure": 1}
    data = dict.fromkeys(LEVEL_VARIABLES, levels)
    memory = {f"memory_{name}": size for name, size in columns.items()}
    pressure = {"pressure": layers}
    decoder = {name: columns[name] for name in n.decoder_fields}
    sizes = {
        "encoder": _and_derivatives(data, n.encoder_gradients) | ground,
        "physics": _and_derivatives(columns, n.physics_gradients)
        | (memory if n.memory else {})
        | pressure
        | ground,
        "decoder": _and_derivatives(decoder, n.decoder_gradients) | ground,
    }
    if n.convolution:
        sizes["convolution"] = dict.fromkeys(LAYER_FIELDS, layers) | pressure
    if n.surface != "raw":
        sizes["surface"] = dict.fromkeys((*SURFACE_VARIABLES, *AIR), 1)
    return sizes


def output_sizes(spec: ModelSpec) -> dict[str, dict[str, int]]:
    """How many numbers each output is, by network and name."""
    layers, levels = spec.sigma.layers, len(spec.levels)
    return {
        "encoder": dict.fromkeys(STATE_FIELDS, layers) | {"log_surface_pressure": 1},
        "physics": dict.fromkeys(TENDENCY_FIELDS, layers),
        "decoder": dict.fromkeys(LEVEL_VARIABLES, levels),
    }


def _and_derivatives(sizes: dict[str, int], gradients: bool) -> dict[str, int]:
    """Fields, and if `gradients` their horizontal derivatives too."""
    if not gradients:
        return sizes
    return sizes | {f"{name}_{d}": sizes[name] for name in sizes for d in DERIVATIVES}


def abstract_scales(spec: ModelSpec) -> Scales:
    """Shapes of the scales of a model."""

    def array(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size,), jnp.float32)

    columns = dict.fromkeys(COLUMN_FIELDS, array(spec.sigma.layers))
    return Scales(
        inputs=jax.tree.map(lambda n: Normal(array(n), array(n)), input_sizes(spec)),
        outputs=jax.tree.map(array, output_sizes(spec)),
        data_change=dict.fromkeys(LEVEL_VARIABLES, array(len(spec.levels))),
        column_change=columns | {"log_surface_pressure": array(1)},
    )


def standardised(
    fields: dict[str, jax.Array], scales: dict[str, Normal]
) -> dict[str, jax.Array]:
    """Fields of the names of `scales`, each [size, 2, latitude, longitude]."""

    def of(x: jax.Array, normal: Normal) -> jax.Array:
        x = x.reshape(-1, *x.shape[-3:])
        shape = (-1, 1, 1, 1)
        return (x - normal.mean.reshape(shape)) / normal.std.reshape(shape)

    return {name: of(fields[name], normal) for name, normal in scales.items()}


def packed(fields: dict[str, jax.Array]) -> jax.Array:
    """All fields as features, in the order of their names."""
    return jnp.concatenate([fields[name] for name in sorted(fields)])


def unpacked(outputs: jax.Array, scales: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A network's outputs by name, multiplied by their scales."""
    fields, start = {}, 0
    for name in sorted(scales):
        scale = scales[name]
        part = outputs[start : start + len(scale)]
        fields[name] = part * scale.reshape(-1, 1, 1, 1)
        start += len(scale)
    return fields
