"""Kernels of a TPU, interpreted: what they compute is what `jax.vmap` would."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import kernels
from model.kernels import Mapping, in_kernel
from model.precision import across, along
from model.sphere import fused
from model.sphere.grids import parse_grid
from tests.model.test_order import as_on_tpus, moist_wave


def interpreted(function, how, *arguments):
    return in_kernel(function, how, True, *arguments)


@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (0, 1), (1, 0)])
@pytest.mark.parametrize("count", [3, 13])
@pytest.mark.parametrize("linear", [False, True])
def test_a_kernel_is_vmap(axes, count, linear):
    """Also where blocks do not divide what is mapped over."""
    how = Mapping(*axes, linear)
    rng = np.random.default_rng(0)
    whole = jnp.asarray(rng.standard_normal((6, 4)))
    tables = [jnp.asarray(rng.standard_normal((count, 1, 1)))]
    shape = [6, 5]
    shape.insert(how.arrays, count)
    arrays = {name: jnp.asarray(rng.standard_normal(shape)) for name in "ab"}

    def function(whole, tables, arrays):
        x, y = across(whole, arrays["a"]), across(whole, arrays["b"])  # [5, 4]
        if linear:
            return {"sum": along(whole, x - 2 * y), "table": tables[0] * x}
        return {"product": along(whole, x * y), "sine": tables[0] * jnp.sin(x)}

    def mapped(arrays):
        return interpreted(function, how, whole, tables, arrays)

    def vmapped(arrays):
        over = jax.vmap(function, (None, 0, how.arrays), how.results)
        return over(whole, tables, arrays)

    def squares(f):
        return jax.grad(lambda x: sum(jnp.sum(y**2) for y in jax.tree.leaves(f(x))))

    for f, g in ((mapped, vmapped), (squares(mapped), squares(vmapped))):
        made, expected = f(arrays), g(arrays)
        assert made.keys() == expected.keys()
        for name, x in made.items():
            np.testing.assert_allclose(x, expected[name], rtol=1e-12, atol=1e-12)


def tendency_and_gradient(equations, state):
    def squares(state):
        tendency = equations.explicit(state)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(tendency)), tendency

    gradient, tendency = jax.jit(jax.grad(squares, has_aux=True))(state)
    return jax.tree.leaves((tendency, gradient))


@pytest.mark.parametrize("grid", ["T21", "TL31"])
def test_the_right_hand_side_in_kernels(monkeypatch, grid):
    """Of a grid that resolves products, and of one that does not."""
    equations, state = moist_wave("highest", top=False, grid=parse_grid(grid))
    monkeypatch.setattr(fused, "mapped", interpreted)
    made = tendency_and_gradient(as_on_tpus(equations, kernels=True), state)
    for a, b in zip(made, tendency_and_gradient(equations, state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max())


def test_three_passes_are_those_of_a_tpu(monkeypatch):
    """In float32 kernels round as transforms of a TPU do, not more."""
    exact, state = moist_wave("highest", top=False)
    rng, h = np.random.default_rng(0), exact.harmonics
    decay = 1e-3 * h.mask * (1.0 + h.total_wavenumber) ** -2
    state = jax.tree.map(lambda x: x + decay * rng.standard_normal(x.shape), state)
    expected = tendency_and_gradient(exact, state)
    state = jax.tree.map(lambda x: x.astype(jnp.float32), state)

    def error(precision):
        equations = dataclasses.replace(
            type(exact).create(
                *(exact.harmonics.grid, exact.sigma, exact.reference_temperature),
                precision=precision,
            ),
            orography=exact.orography.astype(jnp.float32),
        )
        made = tendency_and_gradient(equations, state)
        return [
            np.linalg.norm(a - b) / np.linalg.norm(b)
            for a, b in zip(made, expected, strict=True)
        ]

    monkeypatch.setattr(fused, "mapped", interpreted)
    in_kernels, emulated = error("bf16_3x"), error("bf16_3x_emulated")
    for a, b in zip(in_kernels, emulated, strict=True):
        assert a < 2 * b
    assert max(in_kernels) > 1e-6  # they do round


def test_operations_are_counted():
    """A product of bfloat16 numbers is one of three passes, of float32 six."""

    def function(table, x):
        return jnp.dot(along(table, x), x, precision="highest") + 1

    table, x = jnp.zeros((4, 3), jnp.float32), jnp.zeros((3, 3), jnp.float32)
    counted = kernels.operations(function, table, x)
    three, six = 2 * 4 * 3 * 3, 2 * 4 * 3 * 3
    assert counted.flops == three + six
    assert counted.mxu_flops == 3 * three + 6 * six
    assert counted.vector >= 4 * 3
