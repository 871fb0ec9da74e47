"""Statistics against plain NumPy over the whole series."""

import numpy as np

from model.sphere.grids import parse_grid
from pipeline.preprocess import preprocess
from pipeline.statistics import Moments


def test_merged_moments_are_those_of_the_whole():
    grid = parse_grid("T21")
    random = np.random.default_rng(0)
    # Mean far above the deviation, as for geopotential: float32 sums would give 0.
    fields = (54000 + 30 * random.normal(size=(9, 2, *grid.shape))).astype(np.float32)
    ones = [Moments.of(field, grid) for field in fields]
    left = ones[0].merge(ones[1]).merge(ones[2])
    right = ones[3]
    for one in ones[4:]:
        right = right.merge(one)
    for merged in (left.merge(right), right.merge(left)):
        weights = grid.latitude_weights / grid.latitude_weights.sum()
        exact = fields.astype(np.float64)
        mean = np.einsum("tljk,j->l", exact, weights) / 9 / 64
        square = np.einsum("tljk,j->l", (exact - mean[:, None, None]) ** 2, weights)
        np.testing.assert_allclose(merged.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(merged.std, np.sqrt(square / 9 / 64), rtol=1e-10)
        np.testing.assert_array_equal(merged.least, fields.min((0, 2, 3)))
        np.testing.assert_array_equal(merged.largest, fields.max((0, 2, 3)))
        assert merged.count == 9 * fields[0, 0].size and merged.fields == 9


def test_statistics_of_a_store(make_dataset, tmp_path):
    """In a window that cuts shards; differences reach over their edges."""
    make_dataset(steps=11).to_zarr(tmp_path / "source", zarr_format=2)
    store = preprocess(
        str(tmp_path / "source"),
        str(tmp_path / "store"),
        "T21",
        variables="temperature,sea_surface_temperature,land_sea_mask",
        levels="500,850",
        shard_steps=3,
        stats_times="1990-01-01T06/1990-01-03T03",
    )
    inside = np.arange(1, 9)
    weights = store.grid.latitude_weights / store.grid.latitude_weights.sum()

    def expected(fields):
        fields = fields.astype(np.float64)
        mean = np.einsum("t...jk,j->...", fields, weights) / len(fields) / 64
        deviation = fields - mean[..., None, None]
        square = np.einsum("t...jk,j->...", deviation**2, weights) / len(fields) / 64
        return mean, np.sqrt(square)

    for name in ("temperature", "sea_surface_temperature", "land_sea_mask"):
        static = store.kind(name) == "static"
        fields = store.read(name, None)[None] if static else store.read(name, inside)
        got = store.statistics(name)
        mean, std = expected(fields)
        assert got["mean"].shape == mean.shape == ((2,) if fields.ndim == 4 else ())
        np.testing.assert_allclose(got["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(got["std"], std, rtol=1e-10)
        np.testing.assert_array_equal(got["min"], fields.min((0, -1, -2)))
        np.testing.assert_array_equal(got["max"], fields.max((0, -1, -2)))
        np.testing.assert_array_equal(got["count"], len(fields) * 32 * 64)
        for hours, stride in ((6, 1), (24, 4)):
            difference = got[f"std_{hours}h_difference"]
            if static:
                assert difference is None
                continue
            pairs = fields[stride:].astype(np.float64) - fields[:-stride]
            np.testing.assert_allclose(difference, expected(pairs)[1], rtol=1e-10)
