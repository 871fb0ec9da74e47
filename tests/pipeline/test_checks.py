"""Sound data pass; turned, exchanged, repeated and mislabelled ones are found."""

import itertools

import numpy as np
import pytest
import xarray

from model.sphere.grids import parse_grid
from pipeline.checks import physics, ranges, turns
from pipeline.checks.changes import (
    change,
    find_turned_in_time,
    find_unusual_changes,
)
from pipeline.regrid import Regridder

GRID = parse_grid("TL31")
TIME = np.datetime64("2001-01-02T06")
TURNS = {
    turns.describe(turn): turn
    for turn in itertools.product((False, True), repeat=3)
    if any(turn)
}
DYNAMIC = (
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
)
SURFACE = ("sea_surface_temperature", "geopotential_at_surface", "land_sea_mask")


def fields_of(dataset):
    """Fields [level, latitude, longitude] of a dataset of one time."""
    fields = {}
    for name, array in dataset.data_vars.items():
        dims = [d for d in ("level", "latitude", "longitude") if d in array.dims]
        values = array.transpose(*dims).values
        if not np.isnan(values).all():
            fields[name] = values if len(dims) == 3 else values[None]
    return fields


@pytest.fixture(scope="module")
def statics(real_data):
    """Real static fields at 0.25 degree, and their latitudes and longitudes."""
    names = {"geopotential": "geopotential_at_surface", "land_sea_mask": None}
    fields = {}
    for part, name in names.items():
        data = xarray.load_dataset(real_data / f"era5_static_025_{part}.nc")
        fields[name or part] = next(iter(data.data_vars.values())).values
    return fields, data.latitude.values, data.longitude.values


@pytest.fixture(scope="module")
def era5(era5_tl31, statics):
    """A real state with its ground: fields, latitudes, levels."""
    fields, latitude, longitude = statics
    regridder = Regridder(latitude, longitude, GRID)
    ground = {name: regridder(values) for name, values in fields.items()}
    levels = era5_tl31.level.values
    return fields_of(era5_tl31) | ground, GRID.latitude_degrees, levels


@pytest.fixture(scope="module")
def members(real_data):
    """Geopotential and temperature [member, time, level, latitude, longitude]."""
    pytest.importorskip("cfgrib", reason="needs the extra `grib`")
    return xarray.load_dataset(
        real_data / "era5_levels_members.grib",
        engine="cfgrib",
        backend_kwargs={"indexpath": ""},
    )


@pytest.fixture(scope="module")
def simulated(planet):
    """All times of the sample planet: dataset, latitudes, levels."""
    data = xarray.load_dataset(planet, engine="zarr")
    return data, data.latitude.values, data.level.values


def turn_of(finding):
    """The turn that a finding names, in words."""
    return max((words for words in TURNS if words in finding), key=len)


def test_real_states_are_sound(era5, statics, members):
    fields, latitude, levels = era5
    assert physics.find_state_faults(fields, latitude, levels, TIME) == []
    assert physics.find_earth_faults(fields, latitude) == []
    backwards = {name: values[..., ::-1, :] for name, values in fields.items()}
    assert physics.find_state_faults(backwards, latitude[::-1], levels) == []
    for name, values in fields.items():
        assert ranges.find_constant(name, values) == []

    fields, latitude, _ = statics
    assert physics.find_state_faults(fields, latitude, [500.0]) == []
    assert physics.find_earth_faults(fields, latitude) == []

    latitude, levels = members.latitude.values, members.isobaricInhPa.values
    for number, time in np.ndindex(10, 4):
        state = members.isel(number=number, time=time)
        fields = {"geopotential": state.z.values, "temperature": state.t.values}
        assert physics.find_state_faults(fields, latitude, levels) == []
        regridder = Regridder(latitude, members.longitude.values, GRID)
        fields = {name: regridder(values) for name, values in fields.items()}
        assert physics.find_state_faults(fields, GRID.latitude_degrees, levels) == []


def test_wind_of_another_analysis_fits_its_temperature(real_data):
    """The shear of the wind is the geostrophic wind of the thickness."""
    t, u, v = (
        xarray.load_dataset(real_data / f"eraint_2005012300_{name}.nc")[name]
        for name in "tuv"
    )
    levels, latitude = t.level.values.astype(float), t.latitude.values
    thickness = physics._hydrostatic_thickness(t.values, levels)
    height = np.cumsum(thickness[::-1], 0)[::-1]  # above 1000 hPa
    lowest = np.argmin(np.abs(levels - 850))
    fields = {
        "geopotential": height[:lowest] - height[lowest],
        "u_component_of_wind": u.values[:lowest] - u.values[lowest],
        "v_component_of_wind": v.values[:lowest] - v.values[lowest],
    }
    levels = levels[:lowest]
    assert physics.find_state_faults(fields, latitude, levels) == []
    for name, words in itertools.product(fields, TURNS):
        faulty = fields | {name: turns.turned(fields[name], TURNS[words])}
        found = physics.find_state_faults(faulty, latitude, levels)
        assert found and turn_of(found[0]) == words


def test_the_planet_is_sound_and_random_numbers_are_not_judged(simulated):
    data, latitude, levels = simulated
    regridder = Regridder(latitude, data.longitude.values, GRID)
    for time in range(0, data.sizes["time"], 5):
        fields = fields_of(data.isel(time=time))
        assert physics.find_state_faults(fields, latitude, levels) == []
        regridded = {
            name: (regridder.fill if np.isnan(values).any() else regridder)(values)
            for name, values in fields.items()
        }
        assert physics.find_state_faults(regridded, GRID.latitude_degrees, levels) == []
        for name, values in fields.items():
            assert ranges.find_constant(name, values, may_vanish=True) == []

    random = np.random.default_rng(0)
    for few_levels in ([500.0], [500.0, 850.0], list(levels)):
        fields = {
            name: random.uniform(0.9, 1.1, (len(few_levels), *GRID.shape)) * 5e4
            for name in DYNAMIC
        }
        fields |= {name: random.random((1, *GRID.shape)) for name in SURFACE}
        fields["sea_surface_temperature"][:, 5:20, 10:30] = np.nan
        latitude = GRID.latitude_degrees
        assert physics.find_state_faults(fields, latitude, few_levels) == []
        assert physics.find_earth_faults(fields, latitude) == []


@pytest.mark.parametrize("words", TURNS)
@pytest.mark.parametrize("name", DYNAMIC + SURFACE)
def test_a_turned_variable_is_found(era5, simulated, name, words):
    data, *points = simulated
    simulated_state = fields_of(data.isel(time=-1)), *points
    for fields, latitude, levels in (era5, simulated_state):
        faulty = fields | {name: turns.turned(fields[name], TURNS[words])}
        found = physics.find_state_faults(faulty, latitude, levels, TIME)
        assert found
        assert any(name in finding and words in finding for finding in found)
        for finding in found:
            assert finding.endswith(" at 2001-01-02T06:00") and "\n" not in finding


@pytest.mark.parametrize("words", ["upside down", "mirrored from east to west"])
def test_a_state_that_is_turned_as_a_whole_is_found(era5, words):
    fields, latitude, levels = era5
    faulty = {name: turns.turned(x, TURNS[words]) for name, x in fields.items()}
    (found,) = physics.find_state_faults(faulty, latitude, levels)
    assert found.startswith("v_component_of_wind has the wrong sign") and words in found
    negated = fields | {"u_component_of_wind": -fields["u_component_of_wind"]}
    (found,) = physics.find_state_faults(negated, latitude, levels)
    assert found == "u_component_of_wind has the wrong sign for the geopotential"


def test_exchanged_poles_of_the_earth(era5, statics):
    for fields, latitude, *_ in (era5, statics):
        upside_down = {
            name: fields[name][..., ::-1, :]
            for name in ("land_sea_mask", "geopotential_at_surface")
        }
        found = physics.find_earth_faults(upside_down, latitude)
        assert [finding.split()[0] for finding in found] == list(upside_down)
        # The order of the file is another matter.
        assert physics.find_earth_faults(upside_down, latitude[::-1]) == []


def exchange(x):
    """Exchanges two neighbouring levels."""
    order = np.arange(len(x))
    order[[20, 21]] = 21, 20
    return x[order]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (dict(geopotential=lambda z: z / 9.80665), "height in m"),
        (dict(temperature=lambda t: t - 273.15), "degrees Celsius"),
        (dict(geopotential=lambda z: z[::-1]), "geopotential has its levels in rev"),
        (dict(temperature=lambda t: t[::-1]), "temperature has its levels in reverse"),
        (
            dict(geopotential=lambda z: z[::-1], temperature=lambda t: t[::-1]),
            "geopotential and temperature have their levels in reverse",
        ),
        (dict(geopotential=exchange), "not hydrostatic between 400 and 450 hPa (3 of"),
        (
            dict(geopotential=exchange, temperature=exchange),
            "not hydrostatic between 400 and 450 hPa (3 of",
        ),
    ],
)
def test_mislabelled_columns(era5, simulated, mistake, message):
    data, *points = simulated
    simulated_state = fields_of(data.isel(time=3)), *points
    for fields, latitude, levels in (era5, simulated_state):
        columns = {name: fields[name] for name in ("geopotential", "temperature")}
        faulty = columns | {n: change(columns[n]) for n, change in mistake.items()}
        (found,) = physics.find_state_faults(faulty, latitude, levels)
        assert message in found
        # The order of the levels in the file is another matter.
        faulty = {name: values[::-1] for name, values in faulty.items()}
        assert physics.find_state_faults(faulty, latitude, levels[::-1]) == [found]


def test_a_single_point_where_geopotential_rises(era5):
    fields, latitude, levels = era5
    faulty = fields["geopotential"].copy()
    faulty[20, 3, 4] = faulty[25, 3, 4]
    faulty = fields | {"geopotential": faulty}
    (found,) = physics.find_state_faults(faulty, latitude, levels)
    expected = "geopotential does not fall from 450 to 500 hPa at 0.05% of the points"
    assert found == expected


def test_turned_in_time(simulated, members):
    data, latitude, _ = simulated
    series = {name: data[name].values for name in data if "time" in data[name].dims}
    series = {n: x if x.ndim == 4 else x[:, None] for n, x in series.items()}
    cases = [(n, x, latitude) for n, x in series.items() if not np.isnan(x).all()]
    for member in range(10):
        for name in "zt":
            values = members[name].values[member]
            cases.append((name, values, members.latitude.values))
    for name, values, latitude in cases:
        for before, after in itertools.pairwise(values[:6]):
            assert find_turned_in_time(name, before, after, latitude) == []
            for words, turn in TURNS.items():
                (found,) = find_turned_in_time(
                    name, before, turns.turned(after, turn), latitude, TIME
                )
                expected = f"{words} against the time before at 2001-01-02T06:00"
                assert found == f"{name} is {expected}"


def test_what_follows_the_sun_is_not_turned():
    latitude, longitude = GRID.latitude_degrees, GRID.longitude_degrees

    def sun(hours):
        angle = np.deg2rad(longitude + 15 * hours)
        return (np.cos(np.deg2rad(latitude))[:, None] * np.cos(angle)).clip(0)[None]

    name = "toa_incident_solar_radiation"
    assert find_turned_in_time(name, sun(0), sun(12), latitude) == []
    assert find_turned_in_time("other", sun(0), sun(12), latitude)


def changes_of(values, latitude):
    pairs = itertools.pairwise(values)
    return np.stack([change(*pair, latitude) for pair in pairs])


def test_bad_days_are_outliers(simulated):
    data, latitude, levels = simulated
    times = data.time.values[1:]
    for name in ("temperature", "u_component_of_wind", "specific_humidity"):
        sound = data[name].values

        def found(values, name=name):
            changes = changes_of(values, latitude)
            return find_unusual_changes(name, changes, times, levels)

        assert found(sound) == []
        another_day, repeated = sound.copy(), sound.copy()
        another_day[8] = sound[0]
        to_it, from_it = found(another_day)
        assert "2001-01-03T00:00" in to_it and "2001-01-03T06:00" in from_it
        assert "times as much as usual" in to_it and "hPa" in to_it
        repeated[8] = sound[7]
        assert f"{name} repeats the time before at 2001-01-03T00:00" in found(repeated)
        changes = changes_of(another_day, latitude)[4:10]
        assert find_unusual_changes(name, changes, times[4:10], levels) == []


def test_a_daily_sea_surface_does_not_repeat():
    random = np.random.default_rng(1)
    days = 290 + 0.1 * random.standard_normal((10, 1, *GRID.shape)).cumsum(0)
    hours = days.repeat(24, 0)
    changes = changes_of(hours, GRID.latitude_degrees)
    times = TIME + np.arange(len(changes)) * np.timedelta64(1, "h")
    assert find_unusual_changes("sea", changes, times) == []


def test_changes_are_area_means_of_what_is_defined():
    before = np.zeros((2, *GRID.shape), np.float32)
    after = before + np.float32([[[3.0]], [[-0.5]]])
    after[0, :16] = np.nan
    after[1, :, ::2] = 0.5
    found = change(before, after, GRID.latitude_degrees)
    np.testing.assert_allclose(found, [3.0, 0.5])


def test_constant():
    field = np.full((3, *GRID.shape), 7.0, np.float32)
    found = ranges.find_constant("temperature", field, TIME)
    assert found == ["temperature is 7 everywhere at 2001-01-02T06:00"]
    assert ranges.find_constant("snow", field, may_vanish=True)
    assert ranges.find_constant("snow", 0 * field)
    assert ranges.find_constant("snow", 0 * field, may_vanish=True) == []
    field[:, :16] = np.nan
    assert ranges.find_constant("sea", field)
    field[2, 20, 20] = 8  # Whole constant levels are sound.
    assert ranges.find_constant("sea", field) == []
    fine = np.zeros((1, 721, 1440), np.float32)
    fine[0, 1, 1] = 1  # Between the points that are looked at first.
    assert ranges.find_constant("snow", fine) == []
    assert ranges.find_constant("sea", np.full((1, 4, 8), np.nan)) == []


def test_range(simulated):
    data, latitude, levels = simulated
    regridder = Regridder(latitude, data.longitude.values, GRID)

    def found(before, after):
        return ranges.find_out_of_range("x", before, after, levels, TIME)

    for name in (*DYNAMIC, "specific_cloud_ice_water_content"):
        before = data[name].values[4]
        after = regridder(before)
        assert found(before, after) == []
        after[11, 6, 7] = 2 * before[11].max() + 1
        (extreme,) = found(before, after)
        place = f" at 2001-01-02T06:00, {levels[11]:g} hPa"
        assert " after regridding from " in extreme and extreme.endswith(place)

    sea = data["sea_surface_temperature"].values[4][None]
    filled = regridder.fill(sea)
    assert found(sea, filled) == []
    assert found(sea, filled + 40)


@pytest.mark.parametrize(
    "shape", [(721, 1440), (181, 360), (121, 240), (33, 64), (32, 64), (256, 512)]
)
def test_thinned_points_are_kept_by_every_turn(shape):
    x = np.arange(np.prod(shape)).reshape(1, *shape)
    thinned = turns.thinned(x)
    assert 1000 < thinned.size <= 128 * 256
    for turn in TURNS.values():
        once = turns.turned(x, turn)
        np.testing.assert_array_equal(turns.thinned(once), turns.turned(thinned, turn))
        np.testing.assert_array_equal(turns.turned(once, turn), x)
