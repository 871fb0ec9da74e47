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
    equation: ImplicitExplicit[Y], dt: float, tableau: Tableau = SIL3
) -> Callable[[Y], Y]:
    """One step of `dt` (model units) of an implicit-explicit Runge-Kutta scheme.

    The stages are a scan, so that the equation is compiled once for all of them.

    Raises:
      ValueError: if a stage of the tableau has no implicit part of its own.
    """
    stages = len(tableau.explicit)
    explicit_weights, implicit_weights = np.zeros((2, stages, stages))
    for i, (row, implicit_row) in enumerate(
        zip(tableau.explicit, tableau.implicit, strict=True)
    ):
        explicit_weights[i, : i + 1] = row
        implicit_weights[i, : i + 1] = implicit_row[:-1]
    own_weights = np.array([row[-1] for row in tableau.implicit])
    if not own_weights.all():
        raise ValueError("a stage of the tableau has no implicit part of its own")

    def step(y0: Y) -> Y:
        dtype = jnp.finfo(jax.tree.leaves(y0)[0].dtype).dtype

        def stage(carry, inputs):
            y, slope, explicit, implicit = carry
            i, of_explicit, of_implicit, own = inputs

            def record(slopes, slope):
                return jax.tree.map(lambda all_, x: all_.at[i].set(x), slopes, slope)

            explicit = record(explicit, equation.explicit(y))
            implicit = record(implicit, slope)
            known = jax.tree.map(
                lambda y, f, g: (
                    y + dt * (_weighted(of_explicit, f) + _weighted(of_implicit, g))
                ),
                *(y0, explicit, implicit),
            )
            y = equation.implicit_solve(known, dt * own)
            # The equation that was solved tells implicit(y), which need not be
            # evaluated (and exchanged between devices) again.
            slope = jax.tree.map(
                lambda y, k, g: None if g is None else (y - k) / (dt * own),
                *(y, known, slope),
            )
            return (y, slope, explicit, implicit), None

        def empty(x: jax.Array) -> jax.Array:
            return jnp.stack([jnp.zeros_like(x)] * stages)

        weights = (explicit_weights, implicit_weights, own_weights)
        inputs = (jnp.arange(stages), *(jnp.asarray(w, dtype) for w in weights))
        slope = equation.implicit(y0)
        start = (y0, slope, *(jax.tree.map(empty, x) for x in (y0, slope)))
        (y, *_), _ = jax.lax.scan(stage, start, inputs)
        return y

    return step


def _weighted(weights: jax.Array, slopes: jax.Array | None) -> jax.Array | float:
    """Sum over stages, written out: cheaper than a product with so few rows."""
    if slopes is None:
        return 0.0
    return sum(weights[j] * slopes[j] for j in range(slopes.shape[0]))
