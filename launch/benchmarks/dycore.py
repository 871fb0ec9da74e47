"""One step of the dynamical core, by the TPU compiler, on a mesh; dinosaur beside it.

The case is the same for both: moist equations with three or more tracers, one SIL3
step and one exponential filter, float32 with transforms in three bfloat16 passes, the
same waves, points and layers, the state donated.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from launch.benchmarks import grid_and_layers
from launch.tpu import topology
from launch.tpu.cost import CHIPS
from launch.tpu.measure import Measurement, abstract, measure
from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.partitioning import LAT, LEVEL, MODAL_LEVELS, MODAL_SURFACE, varying
from model.precision import transform_precision
from model.sphere.grids import GaussianGrid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError

FILTER_MINUTES, FILTER_ORDER = 120.0, 3


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case, figures of ours and of the judge, and their ratios."""
    if args.tracers < 3:
        raise UserError("--tracers must be at least 3: humidity and two condensates")
    if args.minutes <= 0:
        raise UserError(f"--minutes={args.minutes:g} must be more than 0")
    grid, sigma = grid_and_layers(args.grid, args.layers)
    chip = CHIPS[topology.chip_name(args.topology)]
    sizes = {LEVEL: 1, LAT: 1} | topology.parse_mesh(args.mesh, (LEVEL, LAT))
    level, lat = sizes[LEVEL], sizes[LAT]
    if args.layers % level or (grid.latitudes // 2) % lat:
        raise UserError(
            f"--mesh={args.mesh}: level must divide {args.layers} layers, and lat the "
            f"{grid.latitudes // 2} latitude pairs of {grid}"
        )
    devices = topology.devices(args.topology)
    if level * lat > len(devices):
        raise UserError(
            f"--mesh={args.mesh} needs {level * lat} devices, {args.topology} has "
            f"{len(devices)}"
        )
    extra = [f"tracer_{i}" for i in range(3, args.tracers)]
    case = (grid, sigma, [HUMIDITY, *CONDENSATES, *extra], args.minutes)

    def ours(level: int, lat: int) -> Measurement:
        mesh = Mesh(np.array(devices[: level * lat]).reshape(level, lat), (LEVEL, LAT))
        return measure(*our_step(*case, mesh), mesh, chip)

    result = {
        "case": {
            "what": "one filtered SIL3 step of the moist core, state donated, float32, "
            "transforms in three bfloat16 passes; figures of one device",
            **{n: getattr(args, n) for n in ("grid", "layers", "tracers", "minutes")},
            "topology": args.topology,
            "mesh": sizes,
        },
        "ours": figures(ours(level, lat)),
    }
    if level * lat > 1:
        alone = ours(1, 1)
        if alone.fits:
            result["one_device"] = figures(alone)
            result["modelled_efficiency"] = result["one_device"]["modelled_ms"] / (
                level * lat * result["ours"]["modelled_ms"]
            )
    if args.judge:
        from launch.benchmarks.judge import dinosaur_steps

        # It splits longitudes (x) or latitudes (y), or both.
        used = np.array(devices[: level * lat])
        candidates = []
        for shape in sorted({(level, 1, lat), (level, lat, 1)}):
            mesh = Mesh(used.reshape(shape), ("z", "x", "y"))
            for name, step in dinosaur_steps(*case, mesh):
                measured = measure(*step, mesh, chip)
                if measured.fits:
                    what = {"implementation": name, "mesh": dict(mesh.shape)}
                    candidates.append(what | figures(measured))
        if not candidates:
            raise UserError("--judge=dinosaur: its step does not fit on these devices")
        best = min(candidates, key=lambda c: c["modelled_ms"])
        result["judge"] = best
        result["ratio"] = {
            name: best[name] / value
            for name, value in result["ours"].items()
            if isinstance(value, float | int) and value
        }
    return result


def our_step(
    grid: GaussianGrid,
    sigma: SigmaLevels,
    tracers: list[str],
    minutes: float,
    mesh: Mesh,
) -> tuple[Any, tuple]:
    """Our step on `mesh`, jitted, and its abstract arguments."""
    equations = PrimitiveEquations.create(
        grid,
        sigma,
        baroclinic_wave.reference_temperature(sigma),
        precision=transform_precision("tpu"),
        shards=mesh.shape[LAT],
    )
    layout = State(
        vorticity=MODAL_LEVELS,
        divergence=MODAL_LEVELS,
        temperature=MODAL_LEVELS,
        log_surface_pressure=MODAL_SURFACE,
        tracers=dict.fromkeys(tracers, MODAL_LEVELS),
    )
    levels = (sigma.layers, *equations.harmonics.modal_shape)
    state = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(
            levels if spec == MODAL_LEVELS else levels[1:], jnp.float32
        ),
        layout,
        is_leaf=lambda x: isinstance(x, P),
    )
    smooth = exponential_filter(grid, minutes, FILTER_MINUTES, FILTER_ORDER)

    def step(equations: PrimitiveEquations, state: State) -> State:
        equations, state = varying((equations, state))
        core = imex_step(equations, minutes / 60 * units.HOUR)
        end = filtered(core, [smooth])(state)
        # Equal along `level`, which has to be said: devices keep a copy each.
        end.log_surface_pressure = jax.lax.pmean(end.log_surface_pressure, LEVEL)
        return end

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(equations.layout(), layout), out_specs=layout
    )

    def shardings(layout: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), layout)

    arguments = (
        abstract(equations, shardings(equations.layout())),
        abstract(state, shardings(layout)),
    )
    return jax.jit(mapped, donate_argnums=1), arguments


def figures(measurement: Measurement) -> dict[str, Any]:
    """What is compared.

    Raises:
      UserError: if the program does not fit.
    """
    cost, memory = measurement.cost, measurement.memory
    if cost is None:
        raise UserError(
            f"the step needs {memory['peak'] / 2**30:.1f} GiB on each device, of "
            f"{memory['available'] / 2**30:.1f}: use a larger --mesh"
        )
    return {
        "modelled_ms": 1e3 * cost.seconds,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "mxu_flops": cost.mxu_flops,
        "peak_memory": memory["peak"],
        "collective_bytes": cost.collective_bytes,
        "compile_s": round(measurement.compile_seconds, 1),
        "collectives": {
            f"{c.kind} over {c.axes}": {"count": c.count, "bytes": c.bytes}
            for c in cost.collectives
        },
    }
