"""Sums over l and over latitudes of a band of m, for `model.sphere.quarter_circle`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from model.partitioning import LAT
from model.precision import Precision, einsum
from model.sphere.grids import GaussianGrid
from model.sphere.waves import Waves, own_m, point_weights, sec2_latitude


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["synthesis", "analysis", "zonal"],
    meta_fields=["precision"],
)
@dataclasses.dataclass(frozen=True)
class LegendreSums:
    """Sums over l and over latitudes of a band of m, with even and odd ones apart.

    Waves are [2, parity of l, parity of m, m // 2, plane, l // 2 or latitude].

    Attributes:
      synthesis: P and H of the northern hemisphere, each [2, parity of l, parity of m,
        m // 2, l // 2, latitude], the same for cosines and sines.
      analysis: P, and H / cos^2(latitude), times the weights of latitudes, the last two
        axes exchanged. The parity is that of l for P, and the other one for H, so that
        with that of m it tells whether they are even or odd about the equator.
      zonal: all m, and their negative, [2, 1, parity of m, m // 2, 1, 1].
      precision: of the products.
    """

    synthesis: Waves
    analysis: Waves
    zonal: jax.Array
    precision: Precision

    @classmethod
    def of_band(
        cls,
        grid: GaussianGrid,
        m: np.ndarray,
        polynomials: np.ndarray,
        precision: Precision,
    ) -> "LegendreSums":
        """Tables in float64.

        Args:
          grid: of the latitudes.
          m: of the band, an even number of them, the first one even.
          polynomials: P and H of an even number of l, the first one even,
            [2, m, l, latitude].
          precision: of the products.
        """
        _, _, l, latitudes = polynomials.shape  # noqa: E741
        polynomials = polynomials.reshape(2, len(m) // 2, 2, l // 2, 2, latitudes)
        values, slopes = polynomials.transpose(0, 4, 2, 1, 3, 5)
        weights, sec2 = point_weights(grid), sec2_latitude(grid)
        zonal = m.reshape(-1, 2).T[..., None, None]
        of_both = functools.partial(np.repeat, repeats=2, axis=0)  # cosines, sines
        return cls(
            synthesis=Waves(of_both(values[None]), of_both(slopes[None])),
            analysis=Waves(
                of_both((values * weights).swapaxes(-1, -2)[None]),
                of_both((slopes[::-1] * weights * sec2).swapaxes(-1, -2)[None]),
            ),
            zonal=np.stack([zonal, -zonal])[:, None],
            precision=precision,
        )

    def layout(self, transposes: bool) -> "LegendreSums":
        """Where the tables lie: `PartitionSpec`s in their places."""
        if transposes:
            synthesis = analysis = P(None, None, None, LAT)
        else:
            analysis = P(None, None, None, None, LAT)
            synthesis = P(None, None, None, None, None, LAT)
        return dataclasses.replace(
            self,
            synthesis=Waves(synthesis, synthesis),
            analysis=Waves(analysis, analysis),
            zonal=P(),
        )

    def over_l(self, field: Waves) -> jax.Array:
        """-> [2, parity, parity of m, m // 2, plane, latitude]."""
        values, slopes = self.synthesis.values, self.synthesis.slopes
        total = None
        for waves, table, finish in (
            (field.values, values, lambda x: x),
            (field.slopes, slopes, _other_parity),
            (field.east, values, self.d_dlon),
        ):
            if waves is None:
                continue
            sums = finish(self._einsum("cpamxk,cpamkj->cpamxj", waves, table))
            total = sums if total is None else total + sums
        return total

    def over_latitudes(self, waves: Waves) -> jax.Array:
        """What is integrated against P, and against H -> ordered waves."""
        subscripts = "cpamxj,cpamjk->cpamxk"
        total = self._einsum(subscripts, waves.values, self.analysis.values)
        if waves.slopes is not None:
            sums = self._einsum(subscripts, waves.slopes, self.analysis.slopes)
            total += _other_parity(sums)
        return total

    def d_dlon(self, waves: jax.Array) -> jax.Array:
        """Derivative in longitude, of own m or of all."""
        # As `waves.d_dlon`, but a CPU vectorises no loop over what is stacked.
        return own_m(self.zonal, waves.shape[3], axis=3) * jnp.flip(waves, axis=0)

    def _einsum(self, subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return einsum(subscripts, x, y, self.precision)


def _other_parity(waves: jax.Array) -> jax.Array:
    """Of slopes, where they belong: l of H are of the other parity than those of P."""
    return waves[:, ::-1]
