"""Everything that is trained, as one Flax NNX module."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import partitioning
from model.partitioning import LAT
from model.physics.convolution import VerticalConvolution
from model.physics.random_fields import Correlations
from model.physics.surface import SurfaceEmbedding
from model.physics.towers import Tower
from model.scales import AIR, input_sizes, output_sizes
from model.spec import LAYER_FIELDS, ModelSpec
from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import SphericalHarmonics


class Orography(nnx.Module):
    """A trained correction to the surface geopotential, one number for each wave.

    Attributes:
      coefficients: of waves with l <= n + 1 in units of the scale: cosines by m and l,
        then sines, [coefficient].
    """

    def __init__(self, grid: GaussianGrid) -> None:
        self.coefficients = nnx.Param(jnp.zeros(len(waves(grid)), jnp.float32))

    def __call__(self, harmonics: SphericalHarmonics) -> jax.Array:
        """Spectral [2, own m, l] on the grid of the correction."""
        values = self.coefficients[...]
        modal = jnp.zeros(harmonics.modal_shape, values.dtype)
        # Without `top` there is no row l = n + 1.
        places = tuple(waves(harmonics.grid).T)
        modal = modal.at[places].set(values, mode="drop")
        own = modal.shape[1] // partitioning.size(LAT)
        start = partitioning.index(LAT) * own
        return jax.lax.dynamic_slice_in_dim(modal, start, own, axis=1)


def waves(grid: GaussianGrid) -> np.ndarray:
    """Indices (part, m, l) of all coefficients of a field, [coefficient, 3]."""
    n = grid.truncation
    part, m, l = np.indices((2, n + 1, n + 2))  # noqa: E741
    return np.argwhere((l >= m) & ((part == 0) | (m > 0)))


class Networks(nnx.Module):
    """The learned part of a model.

    Attributes:
      encoder, memory_encoder, physics, decoder: towers.
      convolution, surface: features of the physics; None if there are none.
      positional: features of each place, by tower, [feature, 2, latitude, longitude].
      orography: corrections by where they are used: `encoder`, `memory_encoder`, `core`
        and `decoder`.
      noise: laws of random fields, by tower.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs) -> None:
        n = spec.networks
        extra = n.positional + len(n.noise)
        inputs = {
            tower: sum(sizes.values()) for tower, sizes in input_sizes(spec).items()
        }
        outputs = {
            tower: sum(sizes.values()) for tower, sizes in output_sizes(spec).items()
        }
        convolution = surface = None
        embedded = 0
        if n.convolution:
            *hidden, last = n.convolution
            convolution = VerticalConvolution(
                *(len(LAYER_FIELDS) + 1, last, hidden, n.convolution_window),
                rngs=rngs,
                dtype=n.dtype,
            )
            embedded += last * spec.sigma.layers
        if n.surface != "raw":
            surface = SurfaceEmbedding(
                len(AIR),
                *(n.surface_features, n.surface_features, n.surface == "constant"),
                rngs=rngs,
                dtype=n.dtype,
            )
            embedded += n.surface_features
        self.convolution, self.surface = convolution, surface

        def tower(name: str, more: int) -> Tower:
            return Tower(
                inputs[name] + more,
                outputs[name],
                n.width,
                n.blocks,
                n.layers,
                rngs,
                dtype=n.dtype,
                remat=spec.remat.tower,
            )

        self.encoder = tower("encoder", extra)
        self.memory_encoder = tower("encoder", extra) if n.memory else None
        self.physics = tower("physics", extra + embedded)
        self.decoder = tower("decoder", n.positional)

        encoders = ("encoder", "memory_encoder") if n.memory else ("encoder",)
        latitudes, longitudes = spec.grid.shape
        self.positional = nnx.Dict()
        if n.positional:
            for name in (*encoders, "physics", "decoder"):
                shape = (n.positional, 2, latitudes // 2, longitudes)
                self.positional[name] = nnx.Param(jnp.zeros(shape, jnp.float32))
        places = [p for p in ("core", "decoder") if p in n.learned_orography]
        if "encoder" in n.learned_orography:
            places += encoders
        self.orography = nnx.Dict()
        for place in places:
            grid = spec.dycore_grid if place == "core" else spec.grid
            self.orography[place] = Orography(grid)
        self.noise = nnx.Dict()
        if n.noise:
            for name in ("encoder", "physics"):
                self.noise[name] = Correlations(*zip(*n.noise, strict=True))

    def places(self, tower: str) -> list[jax.Array]:
        """A tower's features of each place on own columns; none or one array."""
        if tower not in self.positional:
            return []
        return [partitioning.own_columns(self.positional[tower][...])]

    def embedded(
        self,
        volume: jax.Array | None,
        surface: tuple[jax.Array, ...] | None,
        ice_share: jax.Array,
        land_share: jax.Array,
    ) -> list[jax.Array]:
        """Features that the physics makes of others: of levels, and of the surface.

        Args:
          volume: see `features.of_volume`.
          surface: see `features.of_surface`.
          ice_share, land_share: fractions, [2, latitude, longitude].
        """
        features = []
        if self.convolution is not None:
            outputs = CONVOLUTION_SCALE * self.convolution(volume)
            features.append(outputs.reshape(-1, *outputs.shape[2:]))
        if self.surface is not None:
            features.append(self.surface(*surface, ice_share, land_share))
        return features


# Of the convolution's outputs, before they are features; as published.
CONVOLUTION_SCALE = 10.0
