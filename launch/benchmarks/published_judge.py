"""The official package in the case of `launch.benchmarks.published`; needs `judges`."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import gin
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from launch.benchmarks.published import Fields, compile_timed
from launch.published.checkpoint import read_pickle
from pipeline.errors import UserError

try:
    from neuralgcm.legacy import api, gin_utils, stochastic
except ImportError:
    raise UserError(
        "bench published: pip install --constraint constraints.txt '.[judges]'"
    ) from None


class OfficialForecast:
    """A forecast with the official package.

    Attributes:
      core_grid: of its dynamical core, as `launch.benchmarks` names grids.
      compile_seconds: of encoder, advance by an hour, and decoder.
      encoder_noise: the encoder's random fields, in dinosaur's order; None without.
      noise: those of the coming hour.
    """

    def __init__(self, path: str | pathlib.Path, inputs: xarray.Dataset) -> None:
        """
        Args:
          path: of the checkpoint.
          inputs: analysis on its grid.
        """
        model = api.PressureLevelModel.from_checkpoint(read_pickle(path))
        self.core_grid = _core_grid(model)
        plane = ("longitude", "latitude")
        data = model.data_from_xarray(inputs.transpose(..., *plane))
        self._inputs, self._forcings = jax.tree.map(jnp.asarray, data)
        self._model = jax.tree.map(jnp.asarray, model)
        self.compile_seconds = 0.0

    def begin(self) -> None:
        """Compiles the programs and encodes."""
        arguments = self._inputs, self._forcings, jax.random.key(0)
        encode = self._compiled(jax.jit(encode_and_record), *arguments)
        self._state, drawn = encode(self._model, *arguments)
        self.encoder_noise = drawn[0] if drawn else None
        arguments = self._state, self._forcings
        self._advance = self._compiled(type(self._model).advance, *arguments)
        self._decode = self._compiled(type(self._model).decode, *arguments)

    @property
    def noise(self) -> jax.Array | None:
        return self._state.randomness.modal_value

    def advance(self) -> Any:
        """One hour."""
        self._state = self._advance(self._model, self._state, self._forcings)
        return self._state

    def decoded(self) -> Fields:
        """Fields on pressure levels, [level, latitude, longitude]."""
        fields = self._decode(self._model, self._state, self._forcings)
        return {
            name: np.asarray(x).swapaxes(-1, -2)
            for name, x in fields.items()
            if x.ndim == 3
        }

    def _compiled(self, function: Any, *args: Any) -> Any:
        program, seconds = compile_timed(function, self._model, *args)
        self.compile_seconds += seconds
        return program


def encode_and_record(
    model: api.PressureLevelModel, inputs: dict, forcings: dict, key: jax.Array
) -> tuple[Any, list[Any]]:
    """The encoded state; and all spectral random fields that were drawn, in turn.

    To be jitted. Fields are arrays, or arrays by name.
    """
    with _recorded_draws() as drawn:
        state = type(model).encode.__wrapped__(model, inputs, forcings, key)
    return state, [x.modal_value for x in drawn if x.modal_value is not None]


@contextlib.contextmanager
def _recorded_draws() -> Iterator[list[Any]]:
    """A list of the initial random fields that the package draws meanwhile."""
    drawn = []

    def recording(draw: Callable) -> Callable:
        def recorded(law: Any, key: jax.Array) -> Any:
            drawn.append(draw(law, key))
            return drawn[-1]

        return recorded

    with contextlib.ExitStack() as patches:
        for law in _LAWS:
            recorded = recording(law.unconditional_sample)
            patches.enter_context(
                mock.patch.object(law, "unconditional_sample", recorded)
            )
        yield drawn


_LAWS = (
    stochastic.BatchGaussianRandomFieldModule,
    stochastic.DictOfGaussianRandomFieldModules,
)


def _core_grid(model: api.PressureLevelModel) -> str:
    with gin_utils.specific_config(model.gin_config):
        grid = gin.get_configurable("custom_corrds/CoordinateSystem")().horizontal
    return f"{grid.total_wavenumbers - 2}@{grid.longitude_nodes}x{grid.latitude_nodes}"
