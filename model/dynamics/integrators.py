"""Implicit-explicit Runge-Kutta steps.

An equation is anything with `explicit(y)`, `implicit(y)` and
`implicit_solve(y, step)`, which solves x - step * implicit(x) = y. Of fields without an
implicit part `implicit` says None.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Y = TypeVar("Y")


class ImplicitExplicit(Protocol[Y]):
    """dy/dt = explicit(y) + implicit(y), with a linear implicit part."""

    def explicit(self, y: Y) -> Y: ...

    def implicit(self, y: Y) -> Y: ...

    def implicit_solve(self, y: Y, step: jax.Array) -> Y: ...


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
    equation: ImplicitExplicit[Y],
    dt: float,
    tableau: Tableau = SIL3,
    written_out: bool = False,
) -> Callable[[Y], Y]:
    """One step of `dt` (model units) of an implicit-explicit Runge-Kutta scheme.

    The stages are a scan, so that the equation is compiled once for all of them; or
    `written_out`, for whoever counts what a program does.

    Raises:
      ValueError: if a stage of the tableau has no implicit part of its own.
    """
    stages = len(tableau.explicit)
    # [stage, later stage, counted from this one]
    explicit_weights, implicit_weights = np.zeros((2, stages, stages))
    for i, (row, implicit_row) in enumerate(
        zip(tableau.explicit, tableau.implicit, strict=True)
    ):
        for j in range(i + 1):
            explicit_weights[j, i - j] = row[j]
            implicit_weights[j, i - j] = implicit_row[j]
    own_weights = np.array([row[-1] for row in tableau.implicit])
    if not own_weights.all():
        raise ValueError("a stage of the tableau has no implicit part of its own")

    def step(y0: Y) -> Y:
        dtype = jnp.finfo(jax.tree.leaves(y0)[0].dtype).dtype

        def stage(carry, inputs):
            y, slope, known = carry
            of_explicit, of_implicit, own = inputs
            explicit = equation.explicit(y)

            def added(j: int) -> Y:
                """What this stage's slopes add to a later stage, to what was known."""
                return jax.tree.map(
                    lambda k, f, g: (
                        k
                        + dt * of_explicit[j] * f
                        + (0.0 if g is None else dt * of_implicit[j] * g)
                    ),
                    *(known[j], explicit, slope),
                )

            now, *later = (added(j) for j in range(stages))
            y = equation.implicit_solve(now, dt * own)
            # The equation that was solved tells implicit(y), which need not be
            # evaluated (and exchanged between devices) again.
            slope = jax.tree.map(
                lambda y, k, g: None if g is None else (y - k) / (dt * own),
                *(y, now, slope),
            )
            return (y, slope, (*later, known[-1])), None

        weights = (explicit_weights, implicit_weights, own_weights)
        inputs = tuple(jnp.asarray(w, dtype) for w in weights)
        start = (y0, equation.implicit(y0), (y0,) * stages)
        (y, *_), _ = jax.lax.scan(stage, start, inputs, unroll=written_out)
        return y

    return step
