"""The climate of Held and Suarez (1994): a dry planet's mean winds and temperatures.

Two westerly jets of about 30 m/s near 45 degrees, easterlies at the equator and the
ground of the tropics; both hemispheres alike, for nothing tells them apart.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks import check_simulation, grid_and_layers, make_folder
from model import units
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.forcing import Forced
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import PrimitiveEquations
from model.dynamics.state import State
from model.physics.columns import Surroundings, to_columns, to_spectral
from model.physics.held_suarez import held_suarez
from model.sphere.grids import GaussianGrid, unfold
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError
from pipeline.progress import progress

REFERENCE_TEMPERATURE = 288.0  # K, also of the atmosphere at rest at the start
# The smallest waves decay in 0.1 day, others by the eighth power of their wavenumber:
# the dissipation usual for this test in spectral cores.
DAMPING_MINUTES, DAMPING_ORDER = 144.0, 4
SECTIONS = ("u", "temperature", "eddy_heat_flux", "eddy_momentum_flux")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The climate's figures; zonal means and a picture go to `--output`."""
    grid, sigma = grid_and_layers(args.grid, args.layers)
    check_simulation(args.minutes, args.days)
    if not 0 <= args.spin_up_days < args.days:
        raise UserError("--spin_up_days must be at least 0, and less than --days")
    folder = make_folder(args.output)
    names = ("grid", "layers", "minutes", "spin_up_days")
    case = {name: getattr(args, name) for name in names}
    climate = simulate(grid, sigma, args.minutes, args.days, args.spin_up_days)
    for day, means in climate:  # what there is so far is there to be looked at
        result = {
            "case": {**case, "days": day},
            "figures": climate_figures(grid, means),
        }
        np.savez(
            folder / "zonal_means.npz",
            latitude=grid.latitude_degrees,
            sigma=sigma.centers,
            **means,
        )
        (folder / "figures.json").write_text(json.dumps(result, indent=2) + "\n")
        title = (
            f"Held-Suarez: {grid}, {args.layers} layers, days {args.spin_up_days} to "
            f"{day}"
        )
        draw(grid, sigma, means, title, folder / "zonal_means.png")
    return result


def simulate(
    grid: GaussianGrid, sigma: SigmaLevels, minutes: float, days: int, spin_up: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields the day, and zonal and time means by name, [level, latitude], so far.

    Of one sample a day after `spin_up` days; every hundred days, and at the end. Winds
    in m/s, temperature in K, poleward eddy fluxes in K m/s and m2/s2.
    """
    reference = np.full(sigma.layers, REFERENCE_TEMPERATURE)
    equations = PrimitiveEquations.create(grid, sigma, reference)
    physics = held_suarez(sigma)
    steps = round(1440 / minutes)

    @jax.jit
    def one_day(equations: PrimitiveEquations, state: State) -> State:
        h = equations.harmonics
        nothing = jnp.zeros((2, *h.sin_latitude.shape[1:]), h.dtype)
        names = [f.name for f in dataclasses.fields(Surroundings)]
        surroundings = Surroundings(**dict.fromkeys(names, nothing))
        surroundings.sin_latitude = h.sin_latitude
        ordered = equations.ordered
        smooth = exponential_filter(
            *(grid, minutes, DAMPING_MINUTES, DAMPING_ORDER), waves=ordered.waves
        )

        def step(state: State, _: None) -> tuple[State, None]:
            columns = to_columns(h, state, equations.reference_temperature)
            forcing = equations.enter(to_spectral(h, physics(columns, surroundings)))
            core = imex_step(Forced(ordered, forcing), units.DAY / steps)
            after = filtered(core, [smooth])(equations.enter(state))
            return equations.leave(after), None

        return jax.lax.scan(step, state, length=steps)[0]

    @jax.jit
    def sections(equations: PrimitiveEquations, state: State) -> dict[str, jax.Array]:
        h = equations.harmonics
        columns = to_columns(h, state, equations.reference_temperature)
        u, v, temperature = columns.u, columns.v, columns.temperature

        def eddies(x: jax.Array) -> jax.Array:
            return x - jnp.mean(x, axis=-1, keepdims=True)

        fields = {
            "u": u,
            "temperature": temperature,
            "eddy_heat_flux": eddies(v) * eddies(temperature),
            "eddy_momentum_flux": eddies(v) * eddies(u),
        }
        return {name: jnp.mean(x, axis=-1, keepdims=True) for name, x in fields.items()}

    state = initial_state(equations)
    wind = units.VELOCITY
    scale = dict(zip(SECTIONS, (wind, 1.0, wind, wind**2), strict=True))
    totals = dict.fromkeys(SECTIONS, 0.0)
    for day in progress(range(1, days + 1), f"Held-Suarez {grid}: days"):
        state = one_day(equations, state)
        if day > spin_up:
            for name, x in sections(equations, state).items():
                section = unfold(np.asarray(x, np.float64))[..., 0]
                totals[name] = totals[name] + section / scale[name]
        if not np.isfinite(state.temperature).all():
            raise UserError(f"unstable on day {day}: use less --minutes")
        if day == days or (day > spin_up and day % 100 == 0):
            yield day, {name: x / (day - spin_up) for name, x in totals.items()}


def initial_state(equations: PrimitiveEquations) -> State:
    """Isothermal and at rest, with small waves in the surface pressure."""
    h = equations.harmonics
    rng = np.random.default_rng(0)
    waves = h.mask * (h.total_wavenumber > 0) * (h.total_wavenumber < 12)
    noise = 1e-3 * rng.standard_normal(h.modal_shape) * waves
    nothing = jnp.zeros((equations.sigma.layers, *h.modal_shape), h.dtype)
    return State(
        vorticity=nothing,
        divergence=nothing,
        temperature=nothing,
        log_surface_pressure=jnp.asarray(noise, h.dtype),
        tracers={},
    )


def climate_figures(
    grid: GaussianGrid, means: dict[str, np.ndarray]
) -> dict[str, float]:
    """Speed and latitude of both jets, and how far the hemispheres differ.

    The differences are the largest among all points.
    """
    u, temperature = means["u"], means["temperature"]
    north = grid.latitude_degrees > 0

    def jet(rows: np.ndarray) -> tuple[float, float]:
        """Speed and latitude of the largest wind, by a parabola through three rows."""
        layer, row = np.unravel_index(np.argmax(np.where(rows, u, -np.inf)), u.shape)
        row = min(max(row, 1), grid.latitudes - 2)
        y = grid.latitude_degrees[row - 1 : row + 2]
        a, b, c = np.polyfit(y, u[layer, row - 1 : row + 2], 2)
        return float(c - b**2 / (4 * a)), float(-b / (2 * a))

    (north_speed, north_latitude), (south_speed, south_latitude) = (
        jet(north),
        jet(~north),
    )
    return {
        "north_jet_m_s": north_speed,
        "north_jet_latitude": north_latitude,
        "south_jet_m_s": south_speed,
        "south_jet_latitude": south_latitude,
        "hemispheres_differ_m_s": float(np.abs(u - u[:, ::-1]).max()),
        "hemispheres_differ_K": float(np.abs(temperature - temperature[:, ::-1]).max()),
        "surface_easterly_m_s": float(u[-1].min()),
        "coldest_K": float(temperature.min()),
        "warmest_K": float(temperature.max()),
    }


def draw(
    grid: GaussianGrid,
    sigma: SigmaLevels,
    means: dict[str, np.ndarray],
    title: str,
    file: pathlib.Path,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = {
        "u": "zonal wind (m/s)",
        "temperature": "temperature (K)",
        "eddy_heat_flux": "eddy heat flux (K m/s)",
        "eddy_momentum_flux": "eddy momentum flux (m2/s2)",
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, name in zip(axes.flat, SECTIONS, strict=True):
        x = means[name]
        signed = name != "temperature"
        largest = np.abs(x).max()
        levels = np.linspace(-largest, largest, 25) if signed else 25
        drawn = axis.contourf(
            grid.latitude_degrees,
            sigma.centers,
            x,
            levels,
            cmap="RdBu_r" if signed else "turbo",
        )
        axis.contour(
            grid.latitude_degrees, sigma.centers, x, 12, colors="k", linewidths=0.4
        )
        axis.invert_yaxis()
        axis.set_title(labels[name])
        figure.colorbar(drawn, ax=axis)
    for axis in axes[:, 0]:
        axis.set_ylabel("sigma")
    for axis in axes[-1]:
        axis.set_xlabel("latitude")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
