"""Equations with an external forcing added to their explicit part."""

import dataclasses
from typing import Generic, TypeVar

import jax

from model.dynamics.integrators import ImplicitExplicit

Y = TypeVar("Y")


@dataclasses.dataclass(frozen=True)
class Forced(Generic[Y]):
    """`equations` plus a tendency that is the same in every stage of a step.

    In the order of the equations, whichever that is.
    """

    equations: ImplicitExplicit[Y]
    forcing: Y

    def explicit(self, y: Y) -> Y:
        tendency = self.equations.explicit(y)
        return jax.tree.map(lambda a, b: a + b, tendency, self.forcing)

    def implicit(self, y: Y) -> Y:
        return self.equations.implicit(y)

    def implicit_solve(self, y: Y, step: float | jax.Array) -> Y:
        return self.equations.implicit_solve(y, step)
