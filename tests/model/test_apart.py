"""Functions that are compiled apart do what they did, and so do their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.apart import apart
from tests.model.test_order import moist_wave


def product(table, arrays):
    """With one result twice, as a flux is that of a divergence and of a curl."""
    x, y = arrays
    flux = table * x * y
    return {"curl": flux, "divergence": flux, "sum": jnp.sin(x) + y}


TABLE = jnp.arange(3.0)
ARRAYS = (jnp.linspace(0.0, 1.0, 3), jnp.linspace(-2.0, 1.0, 3))


def both(arrays):
    """What the function makes, apart and not."""
    return apart(product, TABLE, arrays), product(TABLE, arrays)


def test_values_and_gradients_are_the_same():
    ours, plain = both(ARRAYS)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)

    def total(of, arrays):
        made = both(arrays)[of]
        return sum(jnp.sum((n + 2) * x**2) for n, x in enumerate(made.values()))

    ours, plain = (
        jax.jit(jax.grad(jax.checkpoint(functools.partial(total, of))))(ARRAYS)
        for of in (0, 1)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), ours, plain)


def test_it_can_be_vectorised():
    arrays = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), ARRAYS)
    ours = jax.vmap(lambda x: apart(product, TABLE, x))(arrays)
    plain = jax.vmap(lambda x: product(TABLE, x))(arrays)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


@pytest.mark.parametrize("gradient", [False, True])
def test_nothing_is_fused_into_products_at_points(gradient):
    """Of a right-hand side: a call of its own, and one for its gradient."""
    equations, state = moist_wave("highest", top=False)

    def energy(state):
        end = equations.explicit(state)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(end))

    function = jax.grad(energy) if gradient else energy
    program = jax.jit(function).lower(state).compile().as_text()
    results = [
        line.split(" call(")[0].count("f64[")
        for line in program.splitlines()
        if " call(" in line and 'inlineable="false"' in line
    ]
    # Both components of the force, once though there are its curl and its divergence;
    # energy; of temperature, the tracer and ln(ps) a source; two fluxes of the first
    # two. Gradients of vorticity, divergence, temperature, the wind, the tracer and the
    # slopes of ln(ps).
    assert results == [2 + 1 + 3 + 2 * 2] + gradient * [3 + 2 + 1 + 2]
