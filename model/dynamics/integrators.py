"""Implicit-explicit Runge-Kutta steps.

An equation is anything with `explicit(y)`, `implicit(y)` and
`implicit_solve(y, step)`, which solves x - step * implicit(x) = y. Of fields without an
implicit part `implicit` says None. If its variables are better kept in another order
during a step, it has `ordered`, the same equation among those, `enter` and `leave`.
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


def imex_step(
    equation: ImplicitExplicit[Y], dt: float, tableau: Tableau = SIL3
) -> Callable[[Y], Y]:
    """One step of `dt` (model units) of an implicit-explicit Runge-Kutta scheme.

    The stages are written out, one after another: in a loop they would copy the state.

    Raises:
      ValueError: if a stage of the tableau has no implicit part of its own.
    """
    if not all(row[-1] for row in tableau.implicit):
        raise ValueError("a stage of the tableau has no implicit part of its own")
    # Looked up in the class, so that an error within the property is not lost.
    if hasattr(type(equation), "ordered"):
        inner = imex_step(equation.ordered, dt, tableau)
        return lambda y: equation.leave(inner(equation.enter(y)))

    def step(y: Y) -> Y:
        slope = equation.implicit(y)
        stages = [y] * len(tableau.explicit)  # what is known of each
        for i in range(len(stages)):
            explicit = equation.explicit(y)
            for j in range(i, len(stages)):
                a, b = tableau.explicit[j][i], tableau.implicit[j][i]
                stages[j] = _added(stages[j], explicit, slope, a, b, dt)
            own = dt * tableau.implicit[i][-1]
            y = equation.implicit_solve(stages[i], own)
            # The equation that was solved tells implicit(y), which need not be
            # evaluated (and exchanged between devices) again.
            slope = _solved_slope(y, stages[i], slope, own)
        return y

    return step


def _added(y: Y, explicit: Y, implicit: Y, a: float, b: float, dt: float) -> Y:
    """y + dt * (a * explicit + b * implicit)."""

    def one(y: jax.Array, f: jax.Array, g: jax.Array | None) -> jax.Array:
        y = y + dt * a * f if a else y
        return y + dt * b * g if b and g is not None else y

    return jax.tree.map(one, y, explicit, implicit)


def _solved_slope(y: Y, known: Y, implicit: Y, step: float) -> Y:
    """(y - known) / step where there is an implicit part."""
    return jax.tree.map(
        lambda y, known, g: None if g is None else (y - known) / step,
        *(y, known, implicit),
    )
