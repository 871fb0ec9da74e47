"""The official package's model of a checkpoint, in our terms.

A judge: it encodes, advances and decodes; what it makes comes back as our states,
spectral fields and frames.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
import xarray
from neuralgcm.legacy import api

from launch.benchmarks.published_judge import encode_and_record
from launch.published.checkpoint import read_pickle
from launch.published.statistics import LOG_PRESSURE
from model.dynamics.state import State
from model.neural_gcm import Frame
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from model.sphere.grids import fold
from tests.model import judges


@dataclasses.dataclass
class Official:
    """A checkpoint's model with an analysis to begin with.

    Attributes:
      model: the package's own.
      inputs, forcings: as it wants them.
      waves: longitude wavenumbers of its grid.
    """

    model: Any
    inputs: dict[str, Any]
    forcings: dict[str, Any]
    waves: int

    @classmethod
    def create(cls, path: str | pathlib.Path, analysis: xarray.Dataset) -> "Official":
        # By our reader, for the wheel's own pickle is of an older JAX.
        model = api.PressureLevelModel.from_checkpoint(read_pickle(path))
        return cls(
            model=model,
            inputs=model.inputs_from_xarray(analysis),
            forcings=model.forcings_from_xarray(analysis),
            waves=model.model_coords.horizontal.longitude_wavenumbers,
        )

    def encode(self, seed: int = 0) -> tuple[Any, list[jax.Array]]:
        """Its state, and the spectral random fields drawn: encoder's and physics'."""
        state, fields = jax.jit(encode_and_record)(
            self.model, self.inputs, self.forcings, jax.random.key(seed)
        )
        return state, [self.noise(x) for x in fields]

    def advance(self, state: Any) -> Any:
        """An hour later."""
        return self.model.advance(state, self.forcings)

    def decode(self, state: Any) -> Frame:
        """`LEVEL_VARIABLES` in SI units, [level, 2, latitude, longitude]."""
        outputs = self.model.decode(state, self.forcings)
        return {
            name: fold(np.asarray(outputs[name]).squeeze().swapaxes(-1, -2))
            for name in LEVEL_VARIABLES
        }

    def noise(self, fields: Any) -> jax.Array:
        """Random fields, one or by name, as [field, 2, m, l]."""
        if isinstance(fields, dict):
            fields = jnp.stack([fields[name] for name in sorted(fields)])
        return jnp.asarray(self._spectral(fields))

    def state(self, state: Any) -> State:
        """An atmosphere of its as one of ours."""
        lnps = self._spectral(state.log_surface_pressure)[0]
        lnps[0, 0, 0] -= LOG_PRESSURE * np.sqrt(4 * np.pi)
        return State(
            vorticity=self._spectral(state.vorticity),
            divergence=self._spectral(state.divergence),
            temperature=self._spectral(state.temperature_variation),
            log_surface_pressure=lnps,
            tracers={name: self._spectral(x) for name, x in state.tracers.items()},
        )

    def _spectral(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if x.shape[-2] == 2 * self.waves:  # with a row for the sine of m = 0
            x = np.delete(x, 1, axis=-2)
        return judges.modal_from_dinosaur(x)


def frame_of(analysis: xarray.Dataset) -> tuple[Frame, jax_datetime.Datetime]:
    """The analysis as a frame of ours, and its date."""
    points = ("latitude", "longitude")
    frame = {
        name: analysis[name].transpose("level", *points) for name in LEVEL_VARIABLES
    }
    frame |= {name: analysis[name].transpose(*points) for name in SURFACE_VARIABLES}
    frame = {
        n: jnp.asarray(fold(x.values.astype(np.float32))) for n, x in frame.items()
    }
    return frame, jax_datetime.to_datetime(np.datetime64(analysis.time.values))
