"""The policy of precision: what is rounded, how much, and that nothing else is."""

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
import pytest
from flax import nnx

from model.dynamics import baroclinic_wave
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import PrimitiveEquations
from model.networks import Networks
from model.neural_gcm import NeuralGCM
from model.precision import einsum, transform_precision
from model.scales import abstract_scales
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from model.sphere.grids import fold, parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels
from train import build
from train.calibration import with_scales
from train.losses.rollout import batch_tables, rollout_sums, total
from train.step import merge_networks, split_networks


def test_policy():
    assert transform_precision("tpu") == "bf16_3x"
    assert transform_precision("cpu") == transform_precision("gpu") == "highest"
    assert transform_precision() == "highest"  # tests run on CPUs


def test_emulation_rounds_operands_to_sixteen_bits():
    x = [[1 + 2.0**-7, 1 + 2.0**-12, 1 + 2.0**-9 + 2.0**-20]]
    x = jnp.asarray(x, jnp.float32)
    y = jnp.eye(3, dtype=jnp.float32)
    found = einsum("ij,jk->ik", x, y, "bf16_3x_emulated")
    np.testing.assert_array_equal(found, [[1 + 2.0**-7, 1 + 2.0**-12, 1 + 2.0**-9]])


@pytest.mark.parametrize(
    "precision, least, most", [("highest", 0, 1e-6), ("bf16_3x_emulated", 1e-6, 2e-5)]
)
def test_error_of_a_round_trip(precision, least, most):
    """Relative error of synthesis and analysis of a red spectrum, float32."""
    h = SphericalHarmonics.create(parse_grid("T42"), jnp.float32, precision)
    noise = np.random.default_rng(0).standard_normal((4, *h.modal_shape))
    x = noise * h.mask * (1.0 + h.total_wavenumber) ** -2
    again = h.analysis(h.synthesis(jnp.asarray(x, jnp.float32)))
    error = np.linalg.norm(again - x) / np.linalg.norm(x)
    assert least <= error < most


def test_a_constant_survives_rounding():
    """ln(ps / p00) is near 0, so that the mean pressure is not rounded away."""
    h = SphericalHarmonics.create(parse_grid("T42"), jnp.float32, "bf16_3x_emulated")
    lnps = jnp.full(h.grid.shape, -0.01, jnp.float32)
    again = h.synthesis(h.analysis(lnps))
    assert np.abs(1000 * np.expm1(again - lnps)).max() < 1e-3  # hPa


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_step_has_one_precision_throughout(dtype):
    grid, sigma = parse_grid("T21"), SigmaLevels.equidistant(4)
    h = SphericalHarmonics.create(grid, dtype)
    equations = PrimitiveEquations.create(
        grid, sigma, baroclinic_wave.reference_temperature(sigma), dtype=dtype
    )
    state = baroclinic_wave.initial_state(h, sigma)

    def energy(equations, state):
        end = imex_step(equations, 0.1)(state)
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(end))

    program = jax.make_jaxpr(jax.grad(energy, argnums=1))(equations, state)
    kinds = {kind for kind, shape in floats(program.jaxpr) if shape}
    assert kinds == {dtype}


def test_every_product_of_a_training_step_states_its_precision(tiny_store, tiny_config):
    """On TPUs and GPUs an unstated one would be rounded; three passes: transforms."""
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    program, _ = gradient_program(spec, tiny_store, tiny_config)
    # Of bfloat16 factors a product is exact: those of kernels, which write passes out.
    of_float32 = [
        e for e in products(program.jaxpr) if e.invars[0].aval.dtype == jnp.float32
    ]
    found = {str(e.params["precision"]) for e in of_float32}
    assert len(found) == 2
    assert all("HIGH" in precision for precision in found)


def gradient_program(spec, store, config):
    """The loss's gradient in float32, as a program, and the parameters."""
    model = NeuralGCM.create(
        spec,
        store.read("geopotential_at_surface", None),
        store.read("land_sea_mask", None),
        precision=transform_precision("tpu"),
    )
    scales = jax.tree.map(lambda x: jnp.ones(x.shape), abstract_scales(spec))
    model = with_scales(model, scales)
    names = (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
    frame = {
        name: jnp.asarray(fold(store.read(name, np.array([0]))[0])) for name in names
    }
    frames = jax.tree.map(lambda x: jnp.stack([x, x]), frame)
    _, params = split_networks(Networks(spec, nnx.Rngs(0)))
    time = jax_datetime.to_datetime(store.times[0])
    loss_ = build.build_objective(config).loss

    def loss(params):
        networks = merge_networks(spec, params)
        key = jax.random.key(0)
        sums = rollout_sums(model, networks, loss_, frames, time, 6, key[None])
        return total(loss_, batch_tables(model, loss_, sums, rows=1))

    return jax.make_jaxpr(jax.grad(loss))(params), params


def equations_of(jaxpr):
    """Every equation of a program, those of scans and the like included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations_of(inner)


def products(jaxpr):
    return (e for e in equations_of(jaxpr) if e.primitive.name == "dot_general")


def floats(jaxpr):
    """Kind and shape of every floating-point array of a program."""
    for equation in equations_of(jaxpr):
        for variable in equation.outvars:
            if jnp.issubdtype(variable.aval.dtype, jnp.floating):
                yield str(variable.aval.dtype), variable.aval.shape


def test_networks_in_bfloat16_add_and_keep_in_float32(tiny_store, make_whole_config):
    """Only factors of their products are rounded; nothing is added in bfloat16."""
    config = make_whole_config()
    config.model.dtype = "bfloat16"
    spec = build.build_spec(config, tiny_store.grid, tiny_store.levels)
    program, params = gradient_program(spec, tiny_store, config)
    # Scans, calls and the like hand on what others have made.
    for equation in equations_of(program.jaxpr):
        if any(True for _ in jax.core.jaxprs_in_params(equation.params)):
            continue
        taken, made = (
            {v.aval.dtype for v in variables if hasattr(v.aval, "dtype")}
            for variables in (equation.invars, equation.outvars)
        )
        if jnp.bfloat16 in made:
            assert equation.primitive.name in ("convert_element_type", "transpose")
        elif jnp.bfloat16 in taken:
            assert equation.primitive.name == "dot_general"
    rounded = [
        e for e in products(program.jaxpr) if e.invars[0].aval.dtype == jnp.bfloat16
    ]
    assert rounded and len(rounded) < len(list(products(program.jaxpr)))
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in rounded)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    assert all(v.aval.dtype == jnp.float32 for v in program.jaxpr.outvars)
