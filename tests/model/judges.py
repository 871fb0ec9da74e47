"""The same atmosphere in dinosaur's terms: grids, levels, states, equations."""

import dinosaur.coordinate_systems
import dinosaur.primitive_equations
import dinosaur.sigma_coordinates
import dinosaur.spherical_harmonic
import jax.numpy as jnp
import numpy as np

from model.dynamics.state import State
from model.sphere.grids import GaussianGrid


def dinosaur_grid(grid: GaussianGrid):
    return dinosaur.spherical_harmonic.Grid(
        longitude_wavenumbers=grid.truncation + 1,
        total_wavenumbers=grid.truncation + 2,
        longitude_nodes=grid.longitudes,
        latitude_nodes=grid.latitudes,
        radius=1.0,
        spherical_harmonics_impl=dinosaur.spherical_harmonic.RealSphericalHarmonics,
    )


def dinosaur_coordinates(grid: GaussianGrid, layers: int):
    return dinosaur.coordinate_systems.CoordinateSystem(
        dinosaur_grid(grid),
        dinosaur.sigma_coordinates.SigmaCoordinates.equidistant(layers, np.float64),
    )


def modal_to_dinosaur(x, grid):
    """[..., 2, m, l] -> [..., 0 +1 -1 +2 -2 .., l], with l to n + 1."""
    n = grid.truncation
    x = np.asarray(x)[..., : n + 1, : n + 2]
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n + 2 - x.shape[-1])])
    rows = [x[..., 0, :1, :]]
    for m in range(1, x.shape[-2]):
        rows += [x[..., 0, m : m + 1, :], x[..., 1, m : m + 1, :]]
    return jnp.asarray(np.concatenate(rows, axis=-2))


def modal_from_dinosaur(x):
    """The inverse, with l padded to an even number."""
    x = np.asarray(x)
    sine = np.concatenate([np.zeros_like(x[..., :1, :]), x[..., 2::2, :]], axis=-2)
    cosine = np.concatenate([x[..., :1, :], x[..., 1::2, :]], axis=-2)
    x = np.stack([cosine, sine], axis=-3)
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, x.shape[-1] % 2)])


def state_to_dinosaur(state: State, grid: GaussianGrid):
    def convert(x):
        return modal_to_dinosaur(x, grid)

    return dinosaur.primitive_equations.State(
        vorticity=convert(state.vorticity),
        divergence=convert(state.divergence),
        temperature_variation=convert(state.temperature),
        log_surface_pressure=convert(state.log_surface_pressure)[None],
        tracers={k: convert(v) for k, v in state.tracers.items()},
    )


def state_from_dinosaur(state) -> State:
    return State(
        vorticity=modal_from_dinosaur(state.vorticity),
        divergence=modal_from_dinosaur(state.divergence),
        temperature=modal_from_dinosaur(state.temperature_variation),
        log_surface_pressure=modal_from_dinosaur(state.log_surface_pressure[0]),
        tracers={k: modal_from_dinosaur(v) for k, v in state.tracers.items()},
    )


def dinosaur_equations(grid, layers, reference_temperature, orography, moist: bool):
    """`orography` is the surface geopotential, spectral, in model units."""
    specs = dinosaur.primitive_equations.PrimitiveEquationsSpecs.from_si()
    kind = (
        dinosaur.primitive_equations.MoistPrimitiveEquationsWithCloudMoisture
        if moist
        else dinosaur.primitive_equations.PrimitiveEquations
    )
    return kind(
        np.asarray(reference_temperature, np.float64),
        modal_to_dinosaur(np.asarray(orography) / specs.gravity_acceleration, grid),
        dinosaur_coordinates(grid, layers),
        specs,
    )
