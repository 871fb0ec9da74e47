"""One step of the dynamical core, timed on a CPU or modelled for a TPU.

The case is the same for both cores, this one and dinosaur's: moist equations with three
or more tracers, one SIL3 step and one exponential filter, the same waves, points and
layers, float32; on a TPU transforms in three bfloat16 passes.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from launch.benchmarks import grid_and_layers
from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    OrderedEquations,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.precision import transform_precision
from model.sphere.grids import GaussianGrid
from model.sphere.waves import Bands
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError

FILTER_MINUTES, FILTER_ORDER = 120.0, 3
DEFAULT = "RealSphericalHarmonics"  # of dinosaur's grids
Figures = dict[str, Any]
"""Numbers by name, the less the better; what is no number is not compared."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What both cores do.

    Attributes:
      grid: waves and points.
      sigma: layers.
      tracers: names; humidity and two condensates come first.
      minutes: of a step.
    """

    grid: GaussianGrid
    sigma: SigmaLevels
    tracers: tuple[str, ...]
    minutes: float

    @classmethod
    def create(cls, args: argparse.Namespace) -> "Case":
        """Of the command's arguments.

        Raises:
          UserError: if they make no sense.
        """
        if args.tracers < 3:
            raise UserError(
                "--tracers must be at least 3: humidity and two condensates"
            )
        if args.minutes <= 0:
            raise UserError(f"--minutes={args.minutes:g} must be more than 0")
        grid, sigma = grid_and_layers(args.grid, args.layers)
        extra = (f"tracer_{i}" for i in range(3, args.tracers))
        return cls(grid, sigma, (HUMIDITY, *CONDENSATES, *extra), args.minutes)

    @property
    def step(self) -> float:
        """Length of a step, in the model's units."""
        return self.minutes / 60 * units.HOUR

    def equations(self, platform: str, shards: int = 1) -> PrimitiveEquations:
        """Ours, with what transforms are formed with on a platform."""
        return PrimitiveEquations.create(
            self.grid,
            self.sigma,
            baroclinic_wave.reference_temperature(self.sigma),
            precision=transform_precision(platform),
            shards=shards,
        )

    def filtered_step(
        self, equations: OrderedEquations
    ) -> Callable[[Bands[State]], Bands[State]]:
        """Ours, of a state in the order of the transforms."""
        smooth = exponential_filter(
            *(self.grid, self.minutes, FILTER_MINUTES, FILTER_ORDER),
            waves=equations.waves,
        )
        return filtered(imex_step(equations, self.step), [smooth])


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case, figures of ours and of the judge, and their ratios.

    `defaults` is the same with dinosaur's default implementation of transforms;
    otherwise it has the one, of those that fit, that is best.
    """
    case = Case.create(args)
    if args.target == "cpu":
        from launch.benchmarks.dycore_cpu import compare
    else:
        from launch.benchmarks.dycore_tpu import compare
    case_told, ours, judges = compare(case, args)
    result = {
        "case": {
            **{n: getattr(args, n) for n in ("grid", "layers", "tracers", "minutes")},
            "target": args.target,
            **case_told,
        },
        "ours": ours,
    }
    if not args.judge:
        return result
    if not judges:
        raise UserError("--judge=dinosaur: its step does not fit on these devices")
    best = fastest(judges)
    result |= {"judge": best, "ratio": ratio(best, ours)}
    if DEFAULT in judges:
        default = judges[DEFAULT]
        result["defaults"] = {"judge": default, "ratio": ratio(default, ours)}
    return result | {"candidates": judges}


def fastest(candidates: dict[str, Figures]) -> Figures:
    """Of each figure the least that any of them has."""
    figures = [numbers(x) for x in candidates.values()]
    return {name: min(x[name] for x in figures) for name in figures[0]}


def ratio(judge: Figures, ours: Figures) -> Figures:
    """How many times as much the judge has as we, of each figure."""
    return {name: judge[name] / value for name, value in numbers(ours).items() if value}


def numbers(figures: Figures) -> dict[str, float]:
    return {name: x for name, x in figures.items() if isinstance(x, float | int)}
