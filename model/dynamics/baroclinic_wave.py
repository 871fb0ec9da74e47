"""The baroclinic wave of Jablonowski and Williamson (2006), doi:10.1256/qj.06.12.

A steady zonal flow in balance with its orography; with the perturbation, a wave that
grows to a storm in ten days. The standard test of a dynamical core.
"""

import jax.numpy as jnp
import numpy as np

from model import units
from model.dynamics.state import State
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels

_U0 = 35 * units.VELOCITY
_ETA0, _ETA_TROPOPAUSE = 0.252, 0.2
_T0, _LAPSE, _DELTA_T = 288.0, 0.005 / units.METRE, 4.8e5


def reference_temperature(sigma: SigmaLevels) -> np.ndarray:
    """Horizontal mean temperature, K, float64 [level]."""
    eta = sigma.centers
    profile = _T0 * eta ** (units.GAS_CONSTANT * _LAPSE / units.GRAVITY)
    return profile + _DELTA_T * np.maximum(_ETA_TROPOPAUSE - eta, 0) ** 5


def _eta_v(eta: np.ndarray) -> np.ndarray:
    return (eta - _ETA0) * np.pi / 2


def _shape_functions(sin_latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The latitude profiles that multiply u0^2 and a Omega u0 in T and Phi."""
    cos2 = 1 - sin_latitude**2
    centrifugal = -2 * sin_latitude**6 * (cos2 + 1 / 3) + 10 / 63
    coriolis = 8 / 5 * cos2**1.5 * (sin_latitude**2 + 2 / 3) - np.pi / 4
    return centrifugal, coriolis


def orography(harmonics: SphericalHarmonics) -> jnp.ndarray:
    """Surface geopotential in balance with the flow, spectral [2, m, l]."""
    centrifugal, coriolis = _shape_functions(harmonics.grid.sin_latitude)
    speed = _U0 * np.cos(_eta_v(1.0)) ** 1.5
    profile = speed * (centrifugal * speed + coriolis / 2)
    nodal = np.broadcast_to(profile[:, None], harmonics.grid.shape)
    return harmonics.analysis(jnp.asarray(nodal, harmonics.dtype))


def initial_state(
    harmonics: SphericalHarmonics, sigma: SigmaLevels, perturbation: float = 1.0
) -> State:
    """The steady flow, with a bump of `perturbation` m/s in the zonal wind.

    Temperature is relative to `reference_temperature(sigma)`.
    """
    grid = harmonics.grid
    sin = grid.sin_latitude[:, None] + 0 * grid.longitude_degrees
    eta_v = _eta_v(sigma.centers)[:, None, None]
    vorticity = -4 * _U0 * np.cos(eta_v) ** 1.5 * sin * np.sqrt(1 - sin**2)
    vorticity = vorticity * (2 - 5 * sin**2)
    centrifugal, coriolis = _shape_functions(sin)
    temperature = 0.75 * sigma.centers[:, None, None] * np.pi * _U0 / units.GAS_CONSTANT
    temperature = temperature * np.sin(eta_v) * np.sqrt(np.cos(eta_v))
    temperature = temperature * (
        centrifugal * 2 * _U0 * np.cos(eta_v) ** 1.5 + coriolis / 2
    )
    latitude, longitude = np.arcsin(sin), np.deg2rad(grid.longitude_degrees)
    lat0, lon0 = np.deg2rad(40), np.deg2rad(20)
    distance = np.arccos(
        np.sin(lat0) * sin + np.cos(lat0) * np.cos(latitude) * np.cos(longitude - lon0)
    )
    bump = perturbation * units.VELOCITY * np.exp(-((10 * distance) ** 2))

    def nodal(x: np.ndarray) -> jnp.ndarray:
        return jnp.asarray(
            np.broadcast_to(x, (sigma.layers, *grid.shape)), harmonics.dtype
        )

    bump_vorticity, bump_divergence = harmonics.vorticity_divergence(
        nodal(bump), nodal(0 * bump)
    )
    return State(
        vorticity=harmonics.analysis(nodal(vorticity)) + bump_vorticity,
        divergence=bump_divergence,
        temperature=harmonics.analysis(nodal(temperature)),
        log_surface_pressure=jnp.zeros(harmonics.modal_shape, harmonics.dtype),
        tracers={},
    )
