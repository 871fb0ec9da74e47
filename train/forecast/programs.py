"""The two programs of a forecast on a mesh: its first output, and the way to the next.

A row is one member of one initial time. Rows lie along `data` and `ensemble`, and each
one's atmosphere over `level` and `lat`, as in training.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.dynamics.conservation import budget
from model.dynamics.state import State
from model.networks import Networks
from model.neural_gcm import Frame, ModelState, NeuralGCM, Noise
from model.partitioning import (
    LAT,
    LEVEL,
    MODAL_LEVELS,
    MODAL_SURFACE,
    SAMPLES,
    varying,
)
from model.physics.columns import Physics, Surroundings
from model.physics.idealised import idealised_physics
from model.spec import TRACERS
from train.forecast import products
from train.forecast.products import FIELDS, GLOBAL, SIGMA, SURFACE, Moment
from train.mesh import batch_layout, replicated, tree_shardings
from train.step import Params, merge_networks

Output = tuple[dict[str, jax.Array], jax.Array]
"""Fields by name [row, (level,) 2, latitude, longitude], and whether all of a row is
finite, [row]."""
_ROWS = P(SAMPLES)
_LAYOUTS = {products.LEVEL: batch_layout(5), SIGMA: batch_layout(5)}
_LAYOUTS |= {SURFACE: batch_layout(4), GLOBAL: _ROWS}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What tells rows apart.

    Attributes:
      days, seconds: of their initial times, since 1970-01-01, int32 [row].
      keys: data of the key of all that is random in each, uint32 [row, ...].
    """

    days: jax.Array
    seconds: jax.Array
    keys: jax.Array


class Programs:
    """Compiled for the first rows; all others must be as many.

    Attributes:
      state_shardings: where states lie, in their places.
    """

    def __init__(
        self,
        model: NeuralGCM,
        params: Params,
        mesh: Mesh,
        hours: int,
        physics: str,
        fields: tuple[str, ...],
    ) -> None:
        """
        Args:
          model, params: tables and averaged parameters, on the mesh.
          mesh: of the devices.
          hours: between two outputs.
          physics: as of a request.
          fields: what is written.
        """
        self._model, self._params, self._mesh = model, params, mesh
        self._hours, self._physics, self._fields = hours, physics, fields
        self._state_layout = _state_layout(model, learned=physics == "learned")
        self.state_shardings = tree_shardings(mesh, self._state_layout)
        # Of several processes each writes some rows.
        of_output = replicated(mesh) if jax.process_count() > 1 else None
        self._begin, self._advance = (
            jax.jit(
                self._on_mesh(part), out_shardings=(self.state_shardings, of_output)
            )
            for part in (self._first, self._next)
        )

    def begin(self, frame: Frame, rows: Rows) -> tuple[ModelState, Output]:
        """Encoded states, and the output of lead 0.

        Args:
          frame: [row, ...].
          rows: of the batch.
        """
        return self._begin(self._model, self._params, frame, rows)

    def advance(
        self, state: ModelState, sea: Frame, later_sea: Frame, rows: Rows, lead: int
    ) -> tuple[ModelState, Output]:
        """States `hours` later, and their output.

        Args:
          state: of `begin` or of this.
          sea, later_sea: at its time, and `hours` later; linear in between.
          rows: of the batch.
          lead: of `state`, hours.
        """
        more = (state, sea, later_sea, rows, jnp.int32(lead))
        return self._advance(self._model, self._params, *more)

    def _on_mesh(self, part: Callable) -> Callable:
        """`part(model, params, ...)` on every device."""

        def layout(argument: Any) -> Any:
            if isinstance(argument, ModelState):
                return self._state_layout
            return jax.tree.map(
                lambda x: batch_layout(x.ndim) if x.ndim else P(), argument
            )

        fields = {name: _LAYOUTS[FIELDS[name].place] for name in self._fields}

        def local(*arguments: Any) -> Any:
            state, (output, finite) = part(*varying(arguments))
            finite = jax.lax.pmin(finite, (LEVEL, LAT))
            for name, layout in fields.items():
                if layout == _ROWS:
                    output[name] = jax.lax.pmax(output[name], (LEVEL, LAT))
            return _equal_on_devices(state), (output, finite)

        def on_mesh(model: NeuralGCM, params: Params, *arguments: Any) -> Any:
            layouts = (model.layout(), jax.tree.map(lambda _: P(), params))
            return jax.shard_map(
                local,
                mesh=self._mesh,
                in_specs=(*layouts, *map(layout, arguments)),
                out_specs=(self._state_layout, (fields, _ROWS)),
            )(model, params, *arguments)

        return on_mesh

    def _first(
        self, model: NeuralGCM, params: Params, frame: Frame, rows: Rows
    ) -> tuple[ModelState, Output]:
        networks, acting = self._acting(model, params)

        def one(frame: Frame, row: Rows) -> tuple[ModelState, Output]:
            time = _time(row)
            key = jax.random.wrap_key_data(row.keys)
            state = model.encode(frame, time, networks, key)
            surroundings = model.surroundings(frame, time)
            output = self._output(model, networks, acting, state, surroundings)
            return _kept(state), output

        return jax.vmap(one)(frame, rows)

    def _next(
        self,
        model: NeuralGCM,
        params: Params,
        state: ModelState,
        sea: Frame,
        later_sea: Frame,
        rows: Rows,
        lead: jax.Array,
    ) -> tuple[ModelState, Output]:
        networks, acting = self._acting(model, params)
        minutes = model.spec.step_minutes
        steps = self._hours * 60 // minutes

        def one(
            state: ModelState, sea: Frame, later_sea: Frame, row: Rows
        ) -> tuple[ModelState, Output]:
            time = _time(row) + lead * jax_datetime.to_timedelta(1, "h")

            def surroundings(index: jax.Array) -> Surroundings:
                # In this form a sea that does not change is exactly that.
                share = index.astype(jnp.float32) / steps
                now = jax.tree.map(lambda x, y: x + share * (y - x), sea, later_sea)
                since = index * jax_datetime.to_timedelta(minutes, "m")
                return model.surroundings(now, time + since)

            def step(state: ModelState, index: jax.Array) -> tuple[ModelState, None]:
                return model.advance(state, surroundings(index), acting), None

            state, _ = jax.lax.scan(step, _resumed(state), jnp.arange(steps))
            end = surroundings(jnp.int32(steps))
            return _kept(state), self._output(model, networks, acting, state, end)

        return jax.vmap(one)(state, sea, later_sea, rows)

    def _acting(
        self, model: NeuralGCM, params: Params
    ) -> tuple[Networks | None, Networks | Physics | None]:
        """The networks of the coders, and the physics."""
        if self._physics == "learned":
            networks = merge_networks(model.spec, params)
            return networks, networks
        if self._physics == "oracle":
            return None, idealised_physics(model.spec.sigma)
        return None, None

    def _output(
        self,
        model: NeuralGCM,
        networks: Networks | None,
        acting: Networks | Physics | None,
        state: ModelState,
        surroundings: Surroundings,
    ) -> Output:
        """This device's columns of the fields; whether they are finite, int32."""
        equations = dataclasses.replace(
            model.equations, orography=model.core_orography(networks)
        )
        atmosphere = model.harmonics.with_waves_of(
            equations.harmonics, state.atmosphere
        )
        moment = Moment(
            model=model,
            columns=model.columns(state.atmosphere),
            decoded=model.decode(state, surroundings, networks),
            surroundings=surroundings,
            # Only if a field asks for them, and once for all that do.
            budget=functools.cache(lambda: budget(equations, atmosphere)),
            tendencies=functools.cache(
                lambda: model.tendencies(state, surroundings, acting).by_name()
            ),
        )
        fields = {name: FIELDS[name].of(moment) for name in self._fields}
        of_all = (*moment.decoded.values(), *fields.values())
        every = [jnp.isfinite(x).all() for x in of_all]
        return fields, jnp.stack(every).all().astype(jnp.int32)


def _time(row: Rows) -> jax_datetime.Datetime:
    since = jax_datetime.Timedelta(days=row.days, seconds=row.seconds)
    return jax_datetime.Datetime(since)


def _kept(state: ModelState) -> ModelState:
    """With the key's data in its place, as arrays that can be stored."""
    if state.noise is None:
        return state
    key = jax.random.key_data(state.noise.key)
    return dataclasses.replace(state, noise=dataclasses.replace(state.noise, key=key))


def _resumed(state: ModelState) -> ModelState:
    """The inverse of `_kept`."""
    if state.noise is None:
        return state
    key = jax.random.wrap_key_data(state.noise.key)
    return dataclasses.replace(state, noise=dataclasses.replace(state.noise, key=key))


def _state_layout(model: NeuralGCM, learned: bool) -> ModelState:
    """`PartitionSpec`s in the places of kept states, [row, ...]."""
    spec = model.spec.networks
    levels = P(SAMPLES, *MODAL_LEVELS)
    surface = P(SAMPLES, *MODAL_SURFACE)
    atmosphere = State(levels, levels, levels, surface, dict.fromkeys(TRACERS, levels))
    noise = Noise(P(SAMPLES, None, *MODAL_SURFACE), _ROWS, _ROWS)
    return ModelState(
        atmosphere,
        atmosphere if learned and spec.memory else None,
        noise if learned and spec.noise else None,
    )


def _equal_on_devices(state: ModelState) -> ModelState:
    """The same state, of which `jax.shard_map` knows what all devices have alike."""

    def of_atmosphere(x: State | None) -> State | None:
        if x is None:
            return None
        surface = jax.lax.pmax(x.log_surface_pressure, LEVEL)
        return dataclasses.replace(x, log_surface_pressure=surface)

    noise = state.noise
    if noise is not None:
        noise = Noise(
            jax.lax.pmax(noise.fields, LEVEL),
            *jax.lax.pmax((noise.key, noise.step), (LEVEL, LAT)),
        )
    return ModelState(
        of_atmosphere(state.atmosphere), of_atmosphere(state.memory), noise
    )
