"""Conservation, constants, NaN, orientation, and agreement with dinosaur."""

from concurrent import futures

import numpy as np
import pytest
import xarray
from scipy.spatial.distance import cdist

from model.sphere.grids import NAMED_LONGITUDES, latitude_edges, parse_grid
from pipeline.errors import UserError
from pipeline.regrid import EDGES, Regridder, check_points, nearest_defined


def points(latitudes, longitudes, poles=True):
    if poles:
        latitude = np.linspace(90, -90, latitudes)
    else:
        latitude = 90 - (np.arange(latitudes) + 0.5) * 180 / latitudes
    return latitude, np.arange(longitudes) * 360 / longitudes


SOURCES = {
    "quarter degree": points(721, 1440),
    "demo": points(65, 128),
    "without poles": points(64, 128, poles=False),
    "coarser": points(19, 36),
    "gaussian": (
        parse_grid("T42").latitude_degrees,
        parse_grid("T42").longitude_degrees,
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grid", ["TL31", "TL63", "31@96x48"])
@pytest.mark.parametrize("edges", EDGES)
def test_keeps_means_and_constants(source, grid, edges):
    latitude, longitude = SOURCES[source]
    regridder = Regridder(latitude, longitude, parse_grid(grid), edges)
    random = np.random.default_rng(0)
    shape = (3, len(latitude), len(longitude))
    # Mean far from zero on one level, around zero on another, tiny on the third.
    scale = np.array([[[5e4]], [[0.0]], [[1e-5]]])
    fields = (scale + [[[3e2]], [[10]], [[1e-5]]] * random.normal(size=shape)).astype(
        np.float32
    )
    before = np.sum(fields * regridder.source_areas, (1, 2), dtype=np.float64)
    after = np.sum(regridder(fields) * regridder.target_areas, (1, 2), dtype=np.float64)
    size = np.abs(fields).mean((1, 2), dtype=np.float64)
    np.testing.assert_array_less(np.abs(after - before), 1e-6 * size)
    np.testing.assert_allclose(regridder.source_areas.sum(), 1, rtol=1e-12)

    for constant in np.float32([287.31, -1.2e-9, 54321.1, 1 / 3]):
        field = np.full(shape[1:], constant)
        error = np.abs(regridder(field).astype(np.float64) - constant)
        assert error.max() <= 4 * np.spacing(np.abs(constant))


@pytest.mark.parametrize("grid", NAMED_LONGITUDES)
def test_gauss_edges_make_areas_of_gauss_weights(grid):
    grid = parse_grid(grid)
    edges = latitude_edges(grid.latitude_degrees, grid.latitude_weights)
    assert (edges[:-1] < grid.latitude_degrees).all()
    assert (grid.latitude_degrees < edges[1:]).all()
    areas = Regridder(*SOURCES["coarser"], grid, "gauss").target_areas
    weights = grid.latitude_weights[:, None] / 2 / grid.longitudes
    # Polar edges come from a sine near 1, with its rounding.
    np.testing.assert_allclose(areas, weights * np.ones(grid.longitudes), rtol=1e-11)


def test_gauss_edges_keep_the_mean_under_gauss_weights(real_data):
    """Midpoint edges do not, most of all where a field changes towards the poles."""
    dataset = xarray.open_dataset(real_data / "era5_static_025_geopotential.nc")
    field = next(iter(dataset.data_vars.values())).isel(time=0).values
    grid = parse_grid("TL63")
    error = {}
    for edges in EDGES:
        regridder = Regridder(*SOURCES["quarter degree"], grid, edges)
        before = np.sum(field * regridder.source_areas)
        zonal = regridder(field).mean(1, dtype=np.float64)
        after = zonal @ grid.latitude_weights / 2
        error[edges] = abs(after - before) / np.abs(field).mean(dtype=np.float64)
    assert error["gauss"] < 1e-6 < error["midpoint"]


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("poles", [True, False])
def test_poles(edges, poles):
    """The cells around a pole see all of it, and nothing from the other end."""
    grid = parse_grid("TL31")
    latitude, longitude = points(181, 360, poles)
    regridder = Regridder(latitude, longitude, grid, edges)
    cap = np.zeros((181, 360), np.float32)
    cap[latitude > 89.4] = 1  # One row: half a cell of a degree, or a whole one.
    result = regridder(cap).astype(np.float64)
    assert (result[:-1] == 0).all()
    assert np.ptp(result[-1]) < 1e-6 * result[-1].max()
    part = cap[:, 0] @ regridder.source_areas.sum(1)
    np.testing.assert_allclose(result[-1], part / regridder.target_areas.sum(1)[-1])


def test_unknown_edges():
    with pytest.raises(UserError, match="unknown edges 'guass': use one of midpoint"):
        Regridder(*SOURCES["coarser"], parse_grid("T21"), "guass")


@pytest.mark.parametrize("grid", ["T21", "TL63", "TL127"])
@pytest.mark.parametrize("edges", EDGES)
def test_many_constants(grid, edges):
    """As many rows meet in a cell as float32 sums may have, more, and fewer."""
    latitude, longitude = points(721, 64)
    regridder = Regridder(latitude, longitude, parse_grid(grid), edges)
    constants = np.random.default_rng(5).uniform(1, 2, 300).astype(np.float32)
    constants = constants[:, None, None]
    result = regridder(np.broadcast_to(constants, (300, 721, 64)))
    assert (np.abs(result - constants) <= 4 * np.spacing(constants)).all()


def test_change_of_means_is_measured():
    latitude, longitude = points(65, 128)
    fields = np.random.default_rng(0).normal(280, 10, (3, 65, 128)).astype(np.float32)
    for edges in ("midpoint", "gauss"):
        regridder = Regridder(latitude, longitude, parse_grid("TL31"), edges)
        means = regridder(fields)
        assert regridder.change(fields, means) < 1e-7
        means[1] *= 1.001
        np.testing.assert_allclose(regridder.change(fields, means), 1e-3, rtol=1e-2)
    assert regridder.change(0 * fields, 0 * means) == 0


def asymmetric(latitude, longitude):
    """A smooth field without any symmetry, [latitude, longitude]."""
    phi, lam = np.deg2rad(latitude)[:, None], np.deg2rad(longitude)
    wave = np.cos(phi) * np.cos(lam - 0.4) + np.cos(phi) ** 2 * np.sin(2 * lam)
    return (10 + 3 * np.sin(phi) + wave).astype(np.float32)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("first_longitude", [0, -180, 90])
def test_orientation(flip, first_longitude):
    grid = parse_grid("TL31")
    latitude, longitude = points(181, 360)
    latitude = latitude[::-1] if flip else latitude
    longitude = longitude + first_longitude
    if first_longitude == 90:  # Wraps inside: 90 ... 359, 0 ... 89.
        longitude = longitude % 360
    result = Regridder(latitude, longitude, grid)(asymmetric(latitude, longitude))
    expected = asymmetric(grid.latitude_degrees, grid.longitude_degrees)
    # Cells are means, points are not; a flip or a shift would give errors of 1.
    assert np.abs(result - expected).max() < 0.02


def test_longitude_wrap_is_symmetric():
    """The cell around 0 takes as much from the west as from the east."""
    grid = parse_grid("TL63")
    latitude, longitude = points(721, 1440)
    regridder = Regridder(latitude, longitude, grid)
    west = np.zeros((721, 1440), np.float32)
    west[:, 720:] = 1
    result = regridder(west)[:, 0]
    one_side = west.copy()
    one_side[:, 0] = 0.5  # The cell on the meridian belongs to both sides.
    np.testing.assert_allclose(regridder(one_side)[:, 0], 0.5, rtol=1e-6)
    assert (result < 0.5).all()


def test_same_grid_is_identity(era5_tl31):
    latitude, longitude = era5_tl31.latitude.values, era5_tl31.longitude.values
    regridder = Regridder(latitude, longitude, parse_grid("TL31"))
    field = era5_tl31.temperature.transpose("level", "latitude", "longitude").values
    np.testing.assert_allclose(regridder(field), field, rtol=1e-6)


def test_nan_is_filled_and_only_where_undefined():
    grid = parse_grid("TL31")
    latitude, longitude = points(65, 128)
    regridder = Regridder(latitude, longitude, grid)
    fields = np.random.default_rng(1).normal(280, 10, (4, 65, 128)).astype(np.float32)
    whole = regridder(fields)
    fields[:2, 10:40, 20:70] = np.nan
    fields[2, :, :64] = np.nan  # Another mask in the same call.
    filled = regridder.fill(fields)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[3], whole[3])
    touched = np.isnan(regridder(fields))
    assert 0.1 < touched.mean() < 0.3
    np.testing.assert_array_equal(filled[~touched], whole[~touched])
    assert filled.min() >= np.nanmin(fields) and filled.max() <= np.nanmax(fields)
    with pytest.raises(ValueError, match="NaN everywhere"):
        regridder.fill(np.full((65, 128), np.nan, np.float32))


def test_constants_survive_holes():
    regridder = Regridder(*points(181, 360), parse_grid("TL31"))
    random = np.random.default_rng(6)
    for constant in np.float32([287.31, -1.2e-9, 54321.1, 1 / 3]):
        field = np.full((181, 360), constant)
        field[random.random(field.shape) < 0.6] = np.nan
        error = np.abs(regridder.fill(field).astype(np.float64) - constant)
        assert error.max() <= 4 * np.spacing(np.abs(constant))


def test_results_do_not_depend_on_masks_seen_before():
    random = np.random.default_rng(7)
    fields = random.normal(280, 10, (40, 33, 64)).astype(np.float32)
    for field in fields:  # More masks than are remembered.
        field[random.random(field.shape) < 0.5] = np.nan
    one = Regridder(*points(33, 64), parse_grid("T21"))
    together = one.fill(fields)
    backwards = one.fill(fields[::-1])[::-1]
    np.testing.assert_array_equal(together, backwards)
    for field, result in zip(fields[:3], together, strict=False):
        fresh = Regridder(*points(33, 64), parse_grid("T21"))
        np.testing.assert_array_equal(fresh.fill(field), result)
    with futures.ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(one.fill, fields)), together)


def test_coverage():
    grid = parse_grid("TL31")
    latitude, longitude = points(181, 360)
    regridder = Regridder(latitude, longitude, grid)
    undefined = np.zeros((181, 360), bool)
    np.testing.assert_allclose(regridder.coverage(undefined), 1, rtol=1e-12)
    assert (regridder.coverage(~undefined) == 0).all()
    undefined[:, 90:270] = True  # From 89.5 to 269.5 degrees.
    undefined[latitude < -60] = True
    coverage = regridder.coverage(undefined)
    assert coverage.shape == grid.shape
    # Cell edges: 5.625 degrees wide, the first from -2.8125 to 2.8125.
    west = 5.625 * np.arange(64) - 2.8125
    defined = np.clip(89.5 - west, 0, 5.625) + np.clip(west + 5.625 - 269.5, 0, 5.625)
    np.testing.assert_allclose(coverage[-1], defined / 5.625, atol=1e-12)
    assert (coverage[:5] == 0).all()
    kept = np.sum(coverage * regridder.target_areas)
    np.testing.assert_allclose(kept, regridder.source_areas[~undefined].sum())


def test_nearest_is_by_great_circle():
    grid = parse_grid("T21")
    defined = np.random.default_rng(2).random(grid.shape) < 0.05
    phi = np.deg2rad(grid.latitude_degrees)[:, None]
    lam = np.deg2rad(grid.longitude_degrees)
    xyz = np.stack(
        np.broadcast_arrays(
            np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
        ),
        -1,
    ).reshape(-1, 3)
    distance = cdist(xyz, xyz[defined.ravel()])
    index = nearest_defined(defined, grid)
    assert defined.ravel()[index].all()
    chosen = np.linalg.norm(xyz - xyz[index], axis=-1)
    np.testing.assert_allclose(chosen, distance.min(1), atol=1e-12)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        (np.linspace(60, 20, 30), points(33, 64)[1], "a region"),
        (points(33, 64)[0], np.arange(64) * 2.0, "leave a gap"),
        (points(33, 64)[0], np.linspace(0, 360, 65), "repeated last column"),
        (points(33, 64)[0], points(33, 64)[1][::-1], "sort the source by longitude"),
        (np.roll(points(33, 64)[0], 3), points(33, 64)[1], "sort the source by lat"),
    ],
)
def test_bad_points(latitude, longitude, message):
    with pytest.raises(UserError, match=message) as info:
        check_points(latitude, longitude)
    assert "\n" not in str(info.value)


# --- dinosaur as judge -------------------------------------------------------------


def judge(fields, latitude, longitude, grid):
    """dinosaur's conservative regridding with skipna and nearest fill."""
    horizontal = pytest.importorskip("dinosaur.horizontal_interpolation")
    harmonic = pytest.importorskip("dinosaur.spherical_harmonic")
    xarray_utils = pytest.importorskip("dinosaur.xarray_utils")
    target = harmonic.Grid(
        longitude_nodes=grid.longitudes,
        latitude_nodes=grid.latitudes,
        latitude_spacing="gauss",
    )
    spacing = "equiangular_with_poles" if latitude.max() > 89.9999 else "gauss"
    source = harmonic.Grid(
        longitude_nodes=len(longitude),
        latitude_nodes=len(latitude),
        latitude_spacing=spacing,
    )
    np.testing.assert_allclose(np.rad2deg(source.latitudes), np.sort(latitude))
    np.testing.assert_allclose(np.rad2deg(source.longitudes), longitude, atol=1e-9)
    regridder = horizontal.ConservativeRegridder(source, target, skipna=True)
    ordered = fields[..., np.argsort(latitude), :]
    result = np.asarray(regridder(np.swapaxes(ordered, -1, -2)))
    array = xarray.DataArray(
        result,
        dims=["level", "longitude", "latitude"],
        coords={
            "longitude": grid.longitude_degrees,
            "latitude": grid.latitude_degrees,
        },
    )
    holes = np.isnan(result).transpose(0, 2, 1)
    filled = xarray_utils.fill_nan_with_nearest(array)
    return filled.transpose("level", "latitude", "longitude").values, holes


def assert_agrees(fields, latitude, longitude, grid):
    fields = fields[None] if fields.ndim == 2 else fields
    expected, holes = judge(fields, latitude, longitude, grid)
    regridder = Regridder(latitude, longitude, grid)
    result = regridder.fill(fields)
    error = np.abs(result - expected) / np.abs(expected).max((1, 2), keepdims=True)
    assert error[~holes].max() < 5e-6
    # Where two defined points are equally near, either is right.
    wrong = np.argwhere(error > 5e-6)
    for level, row, column in wrong:
        defined = ~holes[level]
        assert holes[level, row, column]
        distance = great_circle(grid, row, column)
        nearest = defined & (distance < distance[defined].min() + 1e-6)
        assert nearest.sum() > 1
        assert np.isclose(expected[level][nearest], expected[level, row, column]).any()
        assert np.isclose(result[level][nearest], result[level, row, column]).any()
    if not np.isnan(fields).any():
        np.testing.assert_array_equal(regridder(fields), result)


def great_circle(grid, row, column):
    phi, lam = np.deg2rad(grid.latitude_degrees), np.deg2rad(grid.longitude_degrees)
    cosine = np.sin(phi[row]) * np.sin(phi)[:, None] + np.cos(phi[row]) * np.cos(phi)[
        :, None
    ] * np.cos(lam - lam[column])
    return np.arccos(np.clip(cosine, -1, 1))


@pytest.mark.parametrize(
    ("grid", "latitudes"), [("TL31", 361), ("TL127", 361), ("TL63", 721)]
)
@pytest.mark.parametrize("land", [False, True])
def test_agrees_with_dinosaur_on_random_fields(grid, latitudes, land):
    latitude, longitude = points(latitudes, 2 * (latitudes - 1))
    random = np.random.default_rng(3)
    shape = (2, latitudes, 2 * (latitudes - 1))
    fields = random.normal(280, 10, shape).astype(np.float32)
    if land:
        blocks = random.normal(size=(latitudes // 20 + 1, shape[2] // 20))
        smooth = blocks.repeat(20, 0).repeat(20, 1)[:latitudes]
        fields[:, smooth > 0.6] = np.nan
    assert_agrees(fields, latitude, longitude, parse_grid(grid))


@pytest.mark.parametrize("grid", ["TL31", "TL63", "TL255"])
@pytest.mark.parametrize("variable", ["geopotential", "land_sea_mask"])
def test_agrees_with_dinosaur_on_real_static_fields(real_data, variable, grid):
    dataset = xarray.open_dataset(real_data / f"era5_static_025_{variable}.nc")
    field = next(iter(dataset.data_vars.values())).isel(time=0)
    latitude, longitude = points(721, 1440)
    np.testing.assert_allclose(dataset.latitude, latitude)
    values = field.values.astype(np.float32)
    assert_agrees(values, latitude, longitude, parse_grid(grid))
    if variable == "geopotential":  # The real land mask as the NaN of an SST.
        mask = xarray.open_dataset(real_data / "era5_static_025_land_sea_mask.nc").lsm
        ocean = np.where(mask.isel(time=0) > 0.5, np.nan, 280 + values / 1e3)
        assert_agrees(ocean.astype(np.float32), latitude, longitude, parse_grid(grid))


@pytest.mark.parametrize("name", ["t", "u", "v"])
def test_agrees_with_dinosaur_on_a_real_analysis(real_data, name):
    dataset = xarray.open_dataset(real_data / f"eraint_2005012300_{name}.nc")
    values = dataset[name].values.astype(np.float32)
    latitude, longitude = points(121, 240)
    np.testing.assert_allclose(dataset.latitude, latitude)
    assert_agrees(values, latitude, longitude, parse_grid("TL63"))


def test_agrees_with_dinosaur_on_real_gaussian_era5(era5_tl31):
    grid = parse_grid("TL31")
    field = era5_tl31.temperature.transpose("level", "latitude", "longitude").values
    assert_agrees(
        field, grid.latitude_degrees, grid.longitude_degrees, parse_grid("T21")
    )
