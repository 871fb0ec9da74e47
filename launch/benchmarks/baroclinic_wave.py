"""The baroclinic wave of Jablonowski and Williamson (2006), run and drawn.

A converged core has a lowest surface pressure of about 940 hPa on day 9 and keeps the
mean pressure; published values are in `model.dynamics.baroclinic_wave`'s paper.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks import check_simulation, grid_and_layers, make_folder
from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.conservation import Budget, budget
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import PrimitiveEquations
from model.dynamics.state import State
from model.precision import Precision
from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError
from pipeline.progress import progress


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of every day; pictures of the last one go to `--output`."""
    grid, sigma = grid_and_layers(args.grid, args.layers)
    check_simulation(args.minutes, args.days)
    folder = make_folder(args.output)
    history = simulate(
        grid,
        sigma,
        args.minutes,
        args.days,
        args.perturbation,
        "bf16_3x_emulated" if args.emulate_tpu else None,
    )
    days = []
    for state, figures in history:  # noqa: B007, the last state is drawn
        days.append(figures)
    names = ("grid", "layers", "minutes", "perturbation", "emulate_tpu")
    result = {"case": {name: getattr(args, name) for name in names}, "days": days}
    (folder / "figures.json").write_text(json.dumps(result, indent=2) + "\n")
    title = (
        f"Baroclinic wave on day {args.days}: {grid}, {args.layers} layers, dt "
        f"{args.minutes:g} min; lowest {days[-1]['lowest_hPa']:.1f} hPa"
    )
    draw(SphericalHarmonics.create(grid), sigma, state, title, folder / "map.png")
    return result


def simulate(
    grid: GaussianGrid,
    sigma: SigmaLevels,
    minutes: float,
    days: int,
    perturbation: float = 1.0,
    precision: Precision | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> Iterator[tuple[State, dict[str, float]]]:
    """Yields the state at the end of every day, and its figures.

    Figures: `day`; `lowest_hPa` and `highest_hPa`, extremes of the surface pressure at
    grid points; `wind_m_s`, the largest meridional wind; and what changed since the
    start: `mean_pressure_hPa`, and as parts of the whole `total_energy` and
    `angular_momentum`.
    """
    harmonics = SphericalHarmonics.create(grid, dtype, precision)
    orography = baroclinic_wave.orography(harmonics)
    reference = baroclinic_wave.reference_temperature(sigma)
    equations = PrimitiveEquations.create(
        grid, sigma, reference, orography, dtype, precision
    )
    steps = round(1440 / minutes)

    @jax.jit
    def one_day(equations: PrimitiveEquations, state: State) -> State:
        ordered, state = equations.ordered, equations.enter(state)
        # dinosaur's default, which touches the last few waves alone.
        smooth = exponential_filter(grid, minutes, 1.25, order=18, waves=ordered.waves)
        step = filtered(imex_step(ordered, units.DAY / steps), [smooth])
        end, _ = jax.lax.scan(lambda y, _: (step(y), None), state, length=steps)
        return equations.leave(end)

    # Figures are formed in float64: they show the core's drift, not their own rounding.
    with jax.enable_x64(True):
        exact = PrimitiveEquations.create(
            grid, sigma, reference, jnp.asarray(orography, jnp.float64), jnp.float64
        )

    def look(state: State) -> tuple[dict[str, float], Budget]:
        with jax.enable_x64(True):
            state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), state)
            pressure, wind, budget = _look(exact, state)
            figures = {
                "lowest_hPa": float(pressure.min()),
                "highest_hPa": float(pressure.max()),
                "wind_m_s": float(wind),
            }
            return figures, jax.tree.map(float, budget)

    state = baroclinic_wave.initial_state(harmonics, sigma, perturbation)
    _, start = look(state)
    for day in progress(range(1, days + 1), f"baroclinic wave {grid}: days"):
        state = one_day(equations, state)
        figures, now = look(state)
        if not np.isfinite(figures["lowest_hPa"]):
            raise UserError(f"unstable on day {day}: use less --minutes")
        figures["mean_pressure_hPa"] = 1000 * (
            now.surface_pressure - start.surface_pressure
        )
        for name in ("total_energy", "angular_momentum"):
            figures[name] = getattr(now, name) / getattr(start, name) - 1
        yield state, {"day": day, **figures}


@jax.jit
def _look(
    equations: PrimitiveEquations, state: State
) -> tuple[jax.Array, jax.Array, Budget]:
    """Surface pressure (hPa) at grid points, largest v (m/s), budget."""
    h = equations.harmonics
    pressure = 1000 * jnp.exp(h.synthesis(state.log_surface_pressure))
    _, v = h.wind(state.vorticity, state.divergence)
    return pressure, jnp.abs(v).max() / units.VELOCITY, budget(equations, state)


def draw(
    harmonics: SphericalHarmonics,
    sigma: SigmaLevels,
    state: State,
    title: str,
    file: pathlib.Path,
) -> None:
    """Surface pressure, and temperature and vorticity of the layer next to 850 hPa."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    grid = harmonics.grid
    layer = int(np.argmin(np.abs(sigma.centers - 0.85)))
    pressure = 1000 * np.exp(harmonics.synthesis(state.log_surface_pressure))
    temperature = harmonics.synthesis(state.temperature[layer])
    temperature += baroclinic_wave.reference_temperature(sigma)[layer]
    vorticity = harmonics.synthesis(state.vorticity[layer]) * units.SECOND * 1e5
    panels = [
        (pressure, "surface pressure (hPa)", "RdYlBu_r"),
        (temperature, f"temperature at sigma {sigma.centers[layer]:.2f} (K)", "turbo"),
        (vorticity, "vorticity there (1e-5 / s)", "RdBu_r"),
    ]
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 9), layout="constrained")
    north = grid.latitude_degrees > 0
    for axis, (field, label, colours) in zip(axes, panels, strict=True):
        largest = np.abs(field[north]).max()
        centred = {"vmin": -largest, "vmax": largest} if "vorticity" in label else {}
        drawn = axis.contourf(
            grid.longitude_degrees,
            grid.latitude_degrees[north],
            field[north],
            levels=24,
            cmap=colours,
            **centred,
        )
        figure.colorbar(drawn, ax=axis, label=label)
        axis.set_ylabel("latitude")
    axes[-1].set_xlabel("longitude")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
