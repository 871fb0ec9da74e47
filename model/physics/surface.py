"""What lies under a column, as features: sea, land and ice, blended by their shares."""

import jax
import jax.numpy as jnp
from flax import nnx

from model.physics.towers import Dtype, Tower


class Constant(nnx.Module):
    """The same trained features for every column."""

    def __init__(self, outputs: int) -> None:
        self.value = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, features: jax.Array) -> jax.Array:
        """[feature, ...] -> [output, ...]."""
        value = self.value[...].reshape(-1, *(1 for _ in features.shape[1:]))
        return jnp.broadcast_to(value, (len(value), *features.shape[1:]))


class SurfaceEmbedding(nnx.Module):
    """Features of the surface, of Kochkov et al. (2024), Supplement C.

    Attributes:
      sea: of the sea surface temperature.
      land, ice: of the lowest layer's air (and the ice cover), or constant.
    """

    def __init__(
        self,
        air: int,
        outputs: int,
        width: int,
        constant: bool,
        rngs: nnx.Rngs,
        dtype: Dtype = "float32",
    ) -> None:
        """
        Args:
          air: fields of the lowest layer that land and ice look at.
          outputs: number of features.
          width: of the towers.
          constant: land and ice are constants, and look at no air.
          rngs: for the initial parameters.
          dtype: of the products.
        """

        def tower(inputs: int) -> Tower:
            return Tower(
                *(inputs, outputs, width),
                blocks=1,
                layers=3,
                rngs=rngs,
                decoder_layers=1,
                quiet=False,
                dtype=dtype,
            )

        self.sea = tower(1)
        self.land = Constant(outputs) if constant else tower(air)
        self.ice = Constant(outputs) if constant else tower(air + 1)

    def __call__(
        self,
        temperature: jax.Array,
        air: jax.Array,
        ice_cover: jax.Array,
        ice_share: jax.Array,
        land_share: jax.Array,
    ) -> jax.Array:
        """
        Args:
          temperature: of the sea surface, standardised, [...].
          air: of the lowest layer, standardised, [field, ...].
          ice_cover: standardised, [...].
          ice_share, land_share: fractions 0 to 1, of sea ice on the sea, and of land.

        Returns:
          [output, ...].
        """
        sea_share = 1 - land_share
        return (
            self.land(air) * land_share
            + self.ice(jnp.concatenate([air, ice_cover[None]])) * ice_share * sea_share
            + self.sea(temperature[None]) * (1 - ice_share) * sea_share
        )
