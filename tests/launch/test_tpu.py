"""The cost model counts what programs compiled by the TPU compiler do."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from launch.benchmarks.dycore import Case
from launch.benchmarks.dycore_tpu import our_step
from launch.tpu import chips, collectives, cost, hlo, topology
from launch.tpu import parts as parts_of_step
from launch.tpu.measure import abstract, device_bytes, measure
from model.dynamics.primitive_equations import CONDENSATES
from model.kernels import Mapping, in_kernel, mapped
from model.precision import along, einsum
from model.sphere.grids import parse_grid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError
from train.losses.rollout import taken_in
from train.mesh import MeshShape, make_mesh

CHIP = chips.CHIPS["v5p"]
AXES = ("level", "lat")


@pytest.fixture(scope="module")
def devices():
    pytest.importorskip("libtpu", reason="needs the extra `plan`")
    topology.prepare()
    with jax.enable_x64(False):  # as programs for a TPU are compiled
        yield topology.devices("v5p:2x2x1")


def on_tpu(devices, function, *shapes, dtype=jnp.float32):
    """Measurement of `function` on one device."""
    mesh = Mesh(np.array(devices[:1]), "x")
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    shardings = [NamedSharding(mesh, P())] * len(arguments)
    return measure(jax.jit(function), abstract(arguments, shardings), mesh, CHIP)


def on_mesh(devices, function, shape, in_spec, out_spec):
    """Cost of `function` under `shard_map` on (level, lat) = (2, 2)."""
    mesh = Mesh(np.array(devices).reshape(2, 2), AXES)
    mapped = jax.shard_map(
        lambda x: function(x * 2.0) + 1.0,
        mesh=mesh,
        in_specs=in_spec,
        out_specs=out_spec,
        check_vma=False,
    )
    argument = jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, in_spec)
    )
    return measure(jax.jit(mapped), (argument,), mesh, CHIP).cost


@pytest.mark.parametrize(
    "precision, passes", [("highest", 6), ("bf16_3x", 3), ("default", 1)]
)
def test_passes_of_a_product(devices, precision, passes):
    def product(x, y):
        if precision == "default":
            return jnp.einsum("ij,jk->ik", x, y, precision="default")
        return einsum("ij,jk->ik", x, y, precision)

    measured = on_tpu(devices, product, (256, 512), (512, 128)).cost
    assert measured.flops == 2 * 256 * 512 * 128
    assert measured.mxu_flops == passes * measured.flops


def test_a_branch_counts_in_the_rounds_that_take_it(devices):
    def function(x, w):
        def body(x, index):
            with taken_in(4, 5):
                return jax.lax.cond(index > 0, lambda x: x @ w, lambda x: x, x), None

        return jax.lax.scan(body, x, jnp.arange(5))[0]

    one = 2 * 256**3
    assert on_tpu(devices, function, (256, 256), (256, 256)).cost.flops == 4 * one
    gradient = jax.grad(lambda x, w: jnp.sum(function(x, w) ** 2), (0, 1))
    # Forwards once, and backwards twice: of both factors.
    assert on_tpu(devices, gradient, (256, 256), (256, 256)).cost.flops == 12 * one


def test_bfloat16_operands_take_one_pass(devices):
    measured = on_tpu(
        devices,
        lambda x, y: jnp.matmul(x, y, precision="highest"),
        (256, 512),
        (512, 128),
        dtype=jnp.bfloat16,
    ).cost
    assert measured.mxu_flops == measured.flops == 2 * 256 * 512 * 128


def test_a_kernel_tells_its_operations(devices):
    def function(table, _, x):
        return along(table, x) + 1.0

    how = Mapping(arrays=0, results=0)
    measured = on_tpu(
        devices,
        lambda table, x: in_kernel(function, how, False, table, [], x),
        (128, 128),
        (16, 64, 128),
    ).cost
    assert measured.flops == 2 * 16 * 64 * 128**2
    assert measured.mxu_flops == 3 * measured.flops
    assert not measured.unknown

    def of_samples(table, x):
        return jax.vmap(lambda x: in_kernel(function, how, False, table, [], x))(x)

    several = on_tpu(devices, of_samples, (128, 128), (3, 16, 64, 128)).cost
    assert several.flops == 3 * measured.flops


def test_a_kernel_that_needs_too_much_is_left_to_the_compiler(devices):
    mesh = Mesh(np.array(devices[:1]), "x")

    def calls(rows):
        shape = jax.ShapeDtypeStruct(
            (rows, 8, 128), jnp.float32, sharding=NamedSharding(mesh, P())
        )
        one = jax.shard_map(
            lambda x: mapped(lambda _, __, x: 2 * x, Mapping(1, 1), [], [], x),
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
            check_vma=False,
        )
        text = jax.jit(one).lower(shape).compile().as_text()
        return text.count("tpu_custom_call")

    assert (calls(rows=512), calls(rows=2**15)) == (1, 0)


@pytest.mark.parametrize("level, lat, kernels", [(1, 1, 9), (2, 2, 12), (1, 4, 9)])
def test_a_step_of_the_core_is_in_kernels(devices, level, lat, kernels):
    """Three of each right-hand side, and one for what layers of others need to know."""
    case = Case(
        parse_grid("T21"),
        SigmaLevels.equidistant(8),
        ("specific_humidity", *CONDENSATES),
        minutes=30.0,
    )
    mesh = Mesh(np.array(devices[: level * lat]).reshape(level, lat), AXES)
    step, arguments = our_step(case, mesh)
    program = step.lower(*arguments).compile().as_text()
    assert program.count('custom_call_target="tpu_custom_call"') == kernels
    assert not cost.cost(program, CHIP, dict(mesh.shape)).unknown

    def squares(equations, state):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(step(equations, state)))

    gradient = jax.jit(jax.grad(squares, argnums=1)).lower(*arguments).compile()
    assert "at_latitude_gradient" in gradient.as_text()


@pytest.mark.parametrize(
    "subscripts, left, right, multiplications",
    [
        ("bij,bjk->bik", (24, 64, 96), (24, 96, 128), 24 * 64 * 96 * 128),
        (
            "pmkj,acmkp->pacmj",
            (2, 22, 11, 16),
            (5, 2, 22, 11, 2),
            2 * 22 * 11 * 16 * 10,
        ),
        ("cmi,acmj->aji", (2, 22, 64), (5, 2, 22, 16), 2 * 22 * 64 * 5 * 16),
    ],
)
def test_batched_products(devices, subscripts, left, right, multiplications):
    """The compiler turns them into dilated and padded convolutions."""
    measured = on_tpu(
        devices, lambda x, y: einsum(subscripts, x, y) * 2.0, left, right
    ).cost
    assert measured.flops == 2 * multiplications


def test_a_scan_of_ten_counts_ten_bodies(devices):
    def rounds(n):
        def program(x, y):
            return jax.lax.scan(
                lambda c, _: (jnp.tanh(einsum("ij,jk->ik", c, y)), None), x, length=n
            )[0]

        return on_tpu(devices, program, (512, 512), (512, 512))

    one, ten = rounds(1).cost, rounds(10)
    assert ten.cost.flops == 10 * one.flops == 10 * 2 * 512**3
    assert ten.cost.mxu_flops == 6 * ten.cost.flops
    # The compiler's own figure does not know the trip count.
    assert ten.compiler["flops"] < 4 * one.flops


def test_scans_within_scans_multiply(devices):
    def program(x, y):
        def inner(c, _):
            return jnp.tanh(einsum("ij,jk->ik", c, y)), None

        def outer(c, _):
            return jax.lax.scan(inner, c, length=3)[0] + 1, None

        return jax.lax.scan(outer, x, length=4)[0]

    measured = on_tpu(devices, program, (256, 256), (256, 256)).cost
    assert measured.flops == 12 * 2 * 256**3


def test_bytes_of_an_elementwise_program(devices):
    """Reads two arrays too large for VMEM, writes one."""
    shape = (8192, 8192)
    measured = on_tpu(devices, lambda x, y: x * y + 1, shape, shape).cost
    assert measured.bytes == pytest.approx(3 * 4 * np.prod(shape), rel=0.01)
    assert measured.seconds == pytest.approx(measured.bytes / CHIP.memory_bandwidth)


def test_bytes_are_those_of_whole_tiles(devices):
    """Rows of 130 numbers take two tiles of 128, whatever is done with them."""
    shape = (130, 65536)
    array = hlo._array(hlo._SHAPE.match("f32[65536,130]{1,0:T(8,128)}"))
    assert array.bytes == 4 * 65536 * 130
    assert array.padded_bytes == 4 * 65536 * 256
    measured = on_tpu(devices, lambda x: jnp.sort(x.T, axis=0)[:, 0], shape).cost
    assert measured.bytes > 2 * 4 * np.prod(shape)


def test_bytes_of_slices_copies_and_updates():
    """Only what is taken, copied or changed is moved, and VMEM, S(1), is not HBM."""
    text = """
ENTRY %main (x: f32[64,128]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %u = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %c = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]) copy-start(%x)
  %s = ((f32[64,128]{1,0}), f32[16,128]{1,0:T(8,128)S(1)}, s32[]) slice-start(%x)
  %d = f32[16,128]{1,0:T(8,128)} dynamic-slice(%x, %zero, %zero)
  ROOT %r = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%x, %u, %zero, %zero)
}
"""
    row = 4 * 128
    found = cost.cost(text, CHIP, {"x": 1}).bytes
    assert found == (64 + 16 + 2 * 16 + 8) * row


SHAPE = (64, 128, 128)  # 4 MiB
WHOLE = 4 * np.prod(SHAPE)


@pytest.mark.parametrize(
    "kind, axis, function, in_spec, out_spec, received",
    [
        (
            "all-gather",
            "lat",
            lambda x: jax.lax.all_gather(x, "lat", axis=0, tiled=True),
            P("lat"),
            P(),
            WHOLE / 2,
        ),
        (
            "reduce-scatter",
            "level",
            lambda x: jax.lax.psum_scatter(x, "level", scatter_dimension=0, tiled=True),
            P(),
            P("level"),
            WHOLE / 2,
        ),
        ("all-reduce", "lat", lambda x: jax.lax.psum(x, "lat"), P(), P(), WHOLE),
        (
            "all-reduce",
            "level+lat",
            lambda x: jax.lax.psum(x, AXES),
            P(),
            P(),
            WHOLE * 2 * 3 / 4,
        ),
        (
            "all-to-all",
            "level",
            lambda x: jax.lax.all_to_all(x, "level", 1, 0, tiled=True),
            P("level"),
            P(None, "level"),
            WHOLE / 4,
        ),
        (
            "collective-permute",
            "lat",
            lambda x: jax.lax.ppermute(x, "lat", [(0, 1)]),
            P("lat"),
            P("lat"),
            WHOLE / 2,
        ),
    ],
)
def test_collectives(devices, kind, axis, function, in_spec, out_spec, received):
    measured = on_mesh(devices, function, SHAPE, in_spec, out_spec)
    assert [(c.kind, c.axes) for c in measured.collectives] == [(kind, axis)]
    (found,) = measured.collectives
    assert found.count == 1
    assert found.bytes == received
    assert found.seconds > received / (2 * CHIP.link_bandwidth)


def test_exchange_between_slices_is_told_apart():
    """A sum over two slices: within each, then over the network, then within each."""
    pytest.importorskip("libtpu", reason="needs the extra `plan`")
    topology.prepare()
    with jax.enable_x64(False):
        devices = topology.devices("v5p:2x2x1", slices=2)
        mesh = make_mesh(MeshShape(data=-1, level=2), devices)
        mapped = jax.shard_map(
            lambda x: jax.lax.psum(x * 2.0, "data"),
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
            check_vma=False,
        )
        whole = NamedSharding(mesh, P())
        argument = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=whole)
        found = measure(jax.jit(mapped), (argument,), mesh, CHIP, slices=2).cost
    assert [(c.network, c.axes) for c in found.collectives] == [
        (collectives.DCN, "slices"),
        (collectives.ICI, "data"),
        (collectives.ICI, "data"),
    ]
    # Of the sum of two slices that two devices share, each receives its half.
    assert found.network_bytes == WHOLE / 2
    expected = collectives.NETWORK_LATENCY + WHOLE / 2 / CHIP.network_bandwidth
    assert found.network_seconds == pytest.approx(expected)
    assert found.seconds > expected


def test_collectives_in_a_scan_count_every_round(devices):
    def program(x):
        return jax.lax.scan(
            lambda c, _: (jnp.sin(jax.lax.psum(c, "lat")), None), x, length=7
        )[0]

    (found,) = on_mesh(devices, program, SHAPE, P(), P()).collectives
    assert (found.count, found.bytes) == (7, 7 * WHOLE)


def test_what_does_not_fit_is_told_with_its_size(devices):
    huge = (2**18, 2**18)  # 256 GiB
    measured = on_tpu(devices, lambda x: jnp.sin(x) @ x, huge)
    assert not measured.fits and measured.cost is None
    memory = measured.memory
    assert memory["peak"] > memory["available"] > 90 * 2**30
    assert memory["missing"] == memory["peak"] - memory["available"]


def test_state_that_is_not_donated_shows(devices):
    """`aliased` tells of the arguments that are overwritten, and of no others."""
    mesh = Mesh(np.array(devices).reshape(2, 2), AXES)
    layout = NamedSharding(mesh, P("lat"))
    state = {"a": jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=layout)}
    assert device_bytes(state) == 4 * 128 * 1024

    def step(state):
        return jax.tree.map(lambda x: x + 1, state)

    for donated in ((), (0,)):
        program = jax.jit(step, donate_argnums=donated, out_shardings={"a": layout})
        aliased = measure(program, (state,), mesh, CHIP).memory["aliased"]
        assert aliased == len(donated) * device_bytes(state)


def test_groups_of_devices_are_named_by_mesh_axes():
    mesh = {"data": 2, "level": 2, "lat": 2}
    for attributes, axes in [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "lat"),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", "level"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[2,4]<=[8]", "level+lat"),
        ("replica_groups=[1,8]<=[8]", "data+level+lat"),
        ("source_target_pairs={{0,2},{1,3},{4,6},{5,7}}", "level"),
    ]:
        groups, _ = collectives.device_groups(attributes, 8)
        assert collectives.mesh_axes(groups, mesh) == axes, attributes


def test_a_loop_of_unknown_length_is_refused(devices):
    def program(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 1e6, lambda c: c * 1.1, x)

    with pytest.raises(ValueError, match="trip count"):
        on_tpu(devices, program, (128, 128))


def test_unknown_slices_are_refused(devices):
    for name in ("v5p", "v9:2x2", "v5p:3x3x1"):
        with pytest.raises(UserError, match=name):
            topology.devices(name)


@pytest.mark.slow
def test_plan_of_the_demo():
    """The whole training step, by the command, in a process of its own."""
    command = [sys.executable, "-m", "launch.cli", "plan", "--json"]
    command += ["--config=configs/demo.py", "--topology=v5p:2x2x1"]
    command += ["--mesh=level=4,lat=1", "--config.train.batch=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["fits"] and figures["devices"] == 4
    assert figures["mesh"] == {"data": 1, "ensemble": 1, "level": 4, "lat": 1}
    memory = figures["memory"]
    # Parameters, their average and the optimizer's two moments are donated.
    assert figures["donated"]
    assert memory["aliased"] >= figures["state"] > 4 * 4 * 106_304
    assert memory["peak"] < memory["available"]
    kinds = {(c["kind"], c["axes"]) for c in figures["collectives"]}
    assert ("all-to-all", "level") in kinds  # columns and levels
    assert not any("lat" in axes.split("+") for _, axes in kinds)
    parts, total = figures["parts"], figures["modelled_seconds"]["total"]
    assert set(parts_of_step.PARTS) <= set(parts) and total > 0
    by_phase = {
        p: sum(times[p] for times in parts.values()) for p in parts_of_step.PHASES
    }
    assert sum(by_phase.values()) == pytest.approx(total)
    assert all(parts["dycore"][phase] > 0 for phase in parts_of_step.PHASES)
    assert parts["optimizer"]["backward"] == 0
