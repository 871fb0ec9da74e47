"""Gradients of batches of states, as training takes them: two more axes in front."""

import jax
import jax.numpy as jnp
import numpy as np

from model.dynamics import baroclinic_wave
from model.dynamics.primitive_equations import PrimitiveEquations
from model.sphere.grids import parse_grid
from model.vertical.sigma import SigmaLevels


def test_linear_part_of_samples_and_members():
    """In jaxlib 0.10.2 fused sums of arrays of eight axes crash on CPUs."""
    sigma = SigmaLevels.equidistant(32)
    reference = baroclinic_wave.reference_temperature(sigma)

    def scalar(state, equations):
        ends = equations.implicit(state), equations.implicit_solve(state, 0.05)
        return sum(jnp.sum(jnp.sin(1e3 * x)) for x in jax.tree.leaves(ends))

    with jax.enable_x64(False):
        tables = PrimitiveEquations.create(parse_grid("TL63"), sigma, reference)
        state = tables.enter(baroclinic_wave.initial_state(tables.harmonics, sigma))
        gradient, ordered = jax.grad(scalar), tables.ordered
        expected = jax.jit(gradient)(state, ordered)
        batch = jax.tree.map(lambda x: x[None, None], state)
        of_members = jax.vmap(gradient, in_axes=(0, None))
        of_samples = jax.vmap(of_members, in_axes=(0, None))
        found = jax.jit(of_samples)(batch, ordered)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x[0, 0], y, rtol=1e-5, atol=1e-5 * np.abs(y).max()
        ),
        found,
        expected,
    )
