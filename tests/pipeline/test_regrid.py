"""Conservation, constants, NaN, orientation, and agreement with dinosaur."""

import numpy as np
import pytest
import xarray
from scipy.spatial.distance import cdist

from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from pipeline.regrid import Regridder, check_points, nearest_defined


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
def test_keeps_means_and_constants(source, grid):
    latitude, longitude = SOURCES[source]
    regridder = Regridder(latitude, longitude, parse_grid(grid))
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
    assert np.mean(filled[0] == whole[0]) > 0.5
    assert filled.min() >= np.nanmin(fields) and filled.max() <= np.nanmax(fields)
    with pytest.raises(ValueError, match="NaN everywhere"):
        regridder.fill(np.full((65, 128), np.nan, np.float32))


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


@pytest.mark.parametrize("grid", ["TL31", "TL63", "TL127"])
@pytest.mark.parametrize("land", [False, True])
def test_agrees_with_dinosaur_on_random_fields(grid, land):
    latitude, longitude = points(361, 720)
    random = np.random.default_rng(3)
    fields = random.normal(280, 10, (2, 361, 720)).astype(np.float32)
    if land:
        smooth = random.normal(size=(19, 36)).repeat(20, 0).repeat(20, 1)[:361]
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
