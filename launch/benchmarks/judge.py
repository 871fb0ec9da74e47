"""dinosaur's step in the case of `launch.benchmarks.dycore`; needs `judges`."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from launch.benchmarks import dycore
from model import units
from model.dynamics import baroclinic_wave
from model.sphere.grids import GaussianGrid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError


def dinosaur_steps(
    grid: GaussianGrid,
    sigma: SigmaLevels,
    tracers: list[str],
    minutes: float,
    mesh: Mesh,
) -> Iterator[tuple[str, tuple[Any, tuple]]]:
    """By name of its transforms, its jitted step and abstract arguments.

    On a mesh (z, x, y). On one device there is a second implementation, whose
    transforms always take six passes.
    """
    try:
        from dinosaur import spherical_harmonic
    except ImportError:
        raise UserError(
            "--judge=dinosaur: pip install --constraint constraints.txt '.[judges]'"
        ) from None
    implementations = {
        "FastSphericalHarmonics": functools.partial(
            spherical_harmonic.FastSphericalHarmonics,
            transform_precision="tensorfloat32",  # three bfloat16 passes on a TPU
        )
    }
    if mesh.size == 1:
        implementations["RealSphericalHarmonics"] = (
            spherical_harmonic.RealSphericalHarmonics
        )
    for name, implementation in implementations.items():
        yield name, _step(grid, sigma, tracers, minutes, mesh, implementation)


def _step(
    grid: GaussianGrid,
    sigma: SigmaLevels,
    tracers: list[str],
    minutes: float,
    mesh: Mesh,
    implementation: Any,
) -> tuple[Any, tuple]:
    from dinosaur import (
        coordinate_systems,
        primitive_equations,
        sigma_coordinates,
        spherical_harmonic,
        time_integration,
    )

    horizontal = spherical_harmonic.Grid(
        longitude_wavenumbers=grid.truncation + 1,
        total_wavenumbers=grid.truncation + 2,
        longitude_nodes=grid.longitudes,
        latitude_nodes=grid.latitudes,
        radius=1.0,
        spherical_harmonics_impl=implementation,
    )
    coords = coordinate_systems.CoordinateSystem(
        horizontal,
        sigma_coordinates.SigmaCoordinates.equidistant(sigma.layers),
        spmd_mesh=mesh if mesh.size > 1 else None,
    )
    specs = primitive_equations.PrimitiveEquationsSpecs.from_si()
    equations = primitive_equations.MoistPrimitiveEquationsWithCloudMoisture(
        baroclinic_wave.reference_temperature(sigma),
        np.zeros(coords.horizontal.modal_shape, np.float32),
        coords,
        specs,
    )
    dt = minutes / 60 * units.HOUR
    smooth = time_integration.exponential_step_filter(
        coords.horizontal,
        dt,
        tau=dycore.FILTER_MINUTES / 60 * units.HOUR,
        order=dycore.FILTER_ORDER,
        cutoff=0,
    )
    step = time_integration.step_with_filters(
        time_integration.imex_rk_sil3(equations, dt), [smooth]
    )
    if mesh.size > 1:
        levels = coords.dycore_sharding
        surface = NamedSharding(mesh, P(None, "x", "y"))
    else:
        levels = surface = SingleDeviceSharding(mesh.devices.flat[0])
    on_levels, on_surface = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in [
            (coords.modal_shape, levels),
            (coords.surface_modal_shape, surface),
        ]
    )
    state = primitive_equations.State(
        vorticity=on_levels,
        divergence=on_levels,
        temperature_variation=on_levels,
        log_surface_pressure=on_surface,
        tracers=dict.fromkeys(tracers, on_levels),
    )
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings), (state,)
