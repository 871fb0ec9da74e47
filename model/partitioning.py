"""Where the model's arrays live on the mesh ('data', 'ensemble', 'level', 'lat').

The model is written for one sample; batches are added by `jax.vmap` with
`spmd_axis_name='data'`. Each function states a layout to jit's partitioner, and
does nothing where no mesh is set (`jax.set_mesh`), so that the same program runs
on one device.
"""

import jax
from jax.sharding import PartitionSpec as P


def _constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = (None,) * (x.ndim - len(axes)) + axes
    return jax.lax.with_sharding_constraint(x, P(*spec))


def modal_levels(x: jax.Array) -> jax.Array:
    """Spectral fields [..., level, 2, m, l]: split by level."""
    return _constrain(x, "level", None, None, None)


def nodal_levels(x: jax.Array) -> jax.Array:
    """Grid-point fields [..., level, latitude, longitude]: level and latitude."""
    return _constrain(x, "level", "lat", None)


def nodal_surface(x: jax.Array) -> jax.Array:
    """Grid-point fields [..., latitude, longitude]: split by latitude."""
    return _constrain(x, "lat", None)


def columns(x: jax.Array) -> jax.Array:
    """Whole columns [..., level, latitude, longitude].

    Latitude bands over `lat`, longitudes over `level`: no level is split.
    """
    return _constrain(x, None, "lat", "level")
