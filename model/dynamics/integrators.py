"""Implicit-explicit Runge-Kutta steps.

An equation is anything with `explicit(y)`, `implicit(y)` and
`implicit_solve(y, step)`, which solves x - step * implicit(x) = y.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax

Y = TypeVar("Y")


class ImplicitExplicit(Protocol[Y]):
    """dy/dt = explicit(y) + implicit(y), with a linear implicit part."""

    def explicit(self, y: Y) -> Y: ...

    def implicit(self, y: Y) -> Y: ...

    def implicit_solve(self, y: Y, step: float | jax.Array) -> Y: ...


@dataclasses.dataclass(frozen=True)
class Tableau:
    """Stages after the first: rows of explicit and of implicit weights.

    The last rows are the weights of the step itself, so that the last stage is the
    answer and needs no evaluation.
    """

    explicit: tuple[tuple[float, ...], ...]
    implicit: tuple[tuple[float, ...], ...]


# Whitaker and Kar (2013), doi:10.1175/MWR-D-13-00132.1: third order for the explicit
# part, second for the implicit one.
SIL3 = Tableau(
    explicit=((1 / 3,), (1 / 6, 1 / 2), (1 / 2, -1 / 2, 1.0)),
    implicit=((1 / 6, 1 / 6), (1 / 3, 0.0, 1 / 3), (3 / 8, 0.0, 3 / 8, 1 / 4)),
)


def add(*terms: tuple[float | jax.Array, Y]) -> Y:
    """Sum of weight * tree over `terms`; terms of weight 0 are left out."""
    terms = [(w, y) for w, y in terms if not (isinstance(w, float) and w == 0)]
    weights, trees = zip(*terms, strict=True)

    def combine(*leaves):
        return sum(w * leaf for w, leaf in zip(weights, leaves, strict=True))

    return jax.tree.map(combine, *trees)


def imex_step(
    equation: ImplicitExplicit[Y], dt: float | jax.Array, tableau: Tableau = SIL3
) -> Callable[[Y], Y]:
    """One step of `dt` (model units) of an implicit-explicit Runge-Kutta scheme."""

    def step(y0: Y) -> Y:
        y = y0
        explicit: list[Y] = []
        implicit: list[Y] = []
        for stage, (ex, im) in enumerate(
            zip(tableau.explicit, tableau.implicit, strict=True)
        ):
            explicit.append(equation.explicit(y))
            needed = any(row[stage] for row in tableau.implicit[stage:])
            implicit.append(equation.implicit(y) if needed else y0)
            terms = [(1.0, y0)]
            terms += [(dt * w, f) for w, f in zip(ex, explicit, strict=True) if w]
            terms += [(dt * w, g) for w, g in zip(im, implicit, strict=False) if w]
            y = equation.implicit_solve(add(*terms), dt * im[-1])
        return y

    return step
