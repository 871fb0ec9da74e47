"""Products of the networks, and their gradients, in float32 and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.physics.convolution import over_levels
from model.physics.products import product


def drawn(*shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=s), jnp.float32) for s in shapes]


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def test_bfloat16_rounds_factors_alone_forwards_and_backwards():
    kernel, x, weights = drawn((48, 24), (48, 80), (24, 80))

    def weighted(kernel, x):
        return jnp.sum(weights * product(kernel, x, "bfloat16"))

    by_kernel, by_x = jax.grad(weighted, argnums=(0, 1))(kernel, x)
    k, a, w = map(rounded, (kernel, x, weights))
    for found, expected in [
        (product(kernel, x, "bfloat16"), jnp.einsum("io,in->on", k, a)),
        (by_kernel, jnp.einsum("in,on->io", a, w)),
        (by_x, jnp.einsum("io,on->in", k, w)),
    ]:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.abs(found - rounded(found)).max() > 1e-3


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.2)])
@pytest.mark.parametrize("levels", [3, 8, 37])
@pytest.mark.parametrize("width", [1, 4, 5])
def test_a_convolution_is_that_of_flax(width, levels, dtype, tolerance):
    layer = nnx.Conv(7, 6, (width,), rngs=nnx.Rngs(0), precision="highest")
    kernel, bias, x, weights = drawn(
        (width, 7, 6), (6,), (7, levels, 11), (6, levels, 11)
    )
    structure, _ = nnx.split(layer)

    def ours(layer, x):
        return over_levels(layer, x, dtype)

    def theirs(layer, x):
        return layer(x.transpose(2, 1, 0)).transpose(2, 1, 0)

    def values(function, kernel, bias, x):
        state = nnx.State({"kernel": nnx.Param(kernel), "bias": nnx.Param(bias)})
        return function(nnx.merge(structure, state), x)

    def gradient(function):
        def weighted(*arguments):
            return jnp.sum(weights * values(function, *arguments))

        return jax.grad(weighted, argnums=(0, 1, 2))(kernel, bias, x)

    arguments = (kernel, bias, x)
    np.testing.assert_allclose(
        values(ours, *arguments), values(theirs, *arguments), atol=tolerance
    )
    for found, expected in zip(gradient(ours), gradient(theirs), strict=True):
        np.testing.assert_allclose(found, expected, atol=10 * tolerance)
