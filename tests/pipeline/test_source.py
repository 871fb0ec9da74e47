"""Finding variables in sources of many kinds, and refusing bad ones in one line."""

import os

import numpy as np
import pytest
import xarray
import zarr
import zarr.codecs.numcodecs

from pipeline.errors import UserError
from pipeline.source import open_all, open_fields, select_times
from pipeline.variables import MODEL_VARIABLES, PRESSURE_LEVELS, VARIABLES

LEVELS = (500.0, 850.0)


def read_all(field):
    blocks = list(field.blocks(field.times))
    return np.concatenate([field.read(block) for block in blocks])


def test_catalogue():
    assert len(PRESSURE_LEVELS) == 37 and sorted(PRESSURE_LEVELS) == [*PRESSURE_LEVELS]
    assert list(VARIABLES) == [v.name for v in VARIABLES.values()]
    assert {name for name, v in VARIABLES.items() if v.fill} == {
        "sea_surface_temperature",
        "sea_ice_cover",
    }
    assert {name for name, v in VARIABLES.items() if v.forcing} == {
        "sea_surface_temperature",
        "sea_ice_cover",
    }
    assert len(MODEL_VARIABLES) == 11 and set(MODEL_VARIABLES) < set(VARIABLES)
    # A short name stands for one variable of a kind.
    upper = [s for v in VARIABLES.values() if v.kind == "levels" for s in v.short_names]
    other = [s for v in VARIABLES.values() if v.kind != "levels" for s in v.short_names]
    assert len(set(upper)) == len(upper) and len(set(other)) == len(other)
    assert VARIABLES["10m_u_component_of_wind"].long_name == "10m u component of wind"
    assert VARIABLES["land_sea_mask"].long_name == "Land sea mask"


@pytest.mark.parametrize("form", ["zarr2", "zarr3", "netcdf"])
def test_forms_agree(make_dataset, tmp_path, form):
    dataset = make_dataset()
    path = tmp_path / "source"
    if form == "netcdf":
        packed = {"dtype": "int16", "scale_factor": 0.002, "add_offset": 250.0}
        packed["_FillValue"] = -32767
        dataset.to_netcdf(path, encoding={"temperature": packed})
    else:
        chunked = dataset.chunk(time=4)
        chunked.to_zarr(path, zarr_format=int(form[-1]), consolidated=form == "zarr2")
    fields = open_fields(str(path), None, LEVELS)
    assert list(fields) == ["temperature", "sea_surface_temperature", "land_sea_mask"]
    temperature = read_all(fields["temperature"])
    atol = 0.0011 if form == "netcdf" else 0
    np.testing.assert_allclose(temperature, dataset.temperature, atol=atol, rtol=0)
    surface = read_all(fields["sea_surface_temperature"])
    np.testing.assert_array_equal(surface[:, 0], dataset.sea_surface_temperature)
    static = fields["land_sea_mask"]
    np.testing.assert_array_equal(
        static.read(static.times)[0, 0], dataset.land_sea_mask
    )
    blocks = list(fields["temperature"].blocks(dataset.time.values[1:]))
    if form != "netcdf":  # Reads follow the chunks of the source: 1-3, 4-7, 8-9.
        assert [len(block) for block in blocks] == [3, 4, 2]


def test_short_names_other_order_and_singleton_levels(make_dataset, tmp_path):
    """As in NeuralGCM's own files: (time, level, longitude, latitude), surface [1]."""
    dataset = make_dataset(
        names=(
            "geopotential",
            "sea_surface_temperature",
            "geopotential_at_surface",
        )
    )
    z = dataset.geopotential.transpose("time", "level", "longitude", "latitude")
    z = z.assign_attrs(units="m**2 s**-2").isel(level=[1, 0])
    other = xarray.Dataset({"z": z, "sst": dataset.sea_surface_temperature})
    other = other.isel(latitude=slice(-2, None, -1))
    other = other.rename(latitude="lat", longitude="lon", level="plev")
    other["plev"] = other.plev * 100
    other.plev.attrs["units"] = "Pa"
    other["sst"] = other.sst.expand_dims(level=[0])
    other.to_netcdf(tmp_path / "upper.nc")
    static = dataset.geopotential_at_surface.expand_dims(time=dataset.time)
    static.to_dataset(name="z").to_netcdf(tmp_path / "static.nc")
    fields = open_fields(f"{tmp_path}/upper.nc,{tmp_path}/static.nc", None, LEVELS)
    assert set(fields) == {
        "geopotential",
        "sea_surface_temperature",
        "geopotential_at_surface",
    }
    # Levels come in the order asked for, latitudes in that of the file.
    expected = dataset.geopotential.sel(level=[500, 850], latitude=other.lat.values)
    np.testing.assert_array_equal(read_all(fields["geopotential"]), expected)
    np.testing.assert_array_equal(fields["geopotential"].latitude, other.lat)
    static_field = fields["geopotential_at_surface"]
    np.testing.assert_array_equal(
        static_field.read(static_field.times)[0, 0], dataset.geopotential_at_surface
    )


def test_several_files_are_one_series(make_dataset, tmp_path):
    dataset = make_dataset(names=("temperature",))
    dataset.isel(time=slice(6, None)).to_netcdf(tmp_path / "a.nc")
    dataset.isel(time=slice(None, 6)).to_netcdf(tmp_path / "b.nc")
    field = open_fields(f"{tmp_path}/*.nc", None, LEVELS)["temperature"]
    np.testing.assert_array_equal(field.times, dataset.time)
    np.testing.assert_array_equal(read_all(field), dataset.temperature)
    dataset.isel(time=slice(5, 7)).to_netcdf(tmp_path / "c.nc")
    with pytest.raises(UserError, match="more than once"):
        open_fields(f"{tmp_path}/*.nc", None, LEVELS)


def test_a_file_without_times_needs_one_stated(make_dataset, tmp_path):
    dataset = make_dataset(names=("temperature",), steps=1)
    dataset.isel(time=0).to_netcdf(tmp_path / "scalar.nc")
    dataset.isel(time=0, drop=True).to_netcdf(tmp_path / "none.nc")
    field = open_fields(f"{tmp_path}/scalar.nc", None, LEVELS)["temperature"]
    np.testing.assert_array_equal(read_all(field), dataset.temperature)
    with pytest.raises(UserError, match="state its one time by --times"):
        open_fields(f"{tmp_path}/none.nc", None, LEVELS)
    instant = np.datetime64("2000-01-01")
    fields = open_fields(f"{tmp_path}/none.nc", None, LEVELS, instant)
    assert select_times(fields, "2000-01-01").tolist() == [
        instant.astype("datetime64[ns]").astype(int)
    ]


@pytest.mark.parametrize(
    ("times", "hours"),
    [
        (None, np.arange(0, 60, 6)),
        ("1990-01-01T06/1990-01-02", np.arange(6, 25, 6)),
        ("1990-01-01/1990-01-02T18/12h", np.arange(0, 43, 12)),
        ("1990-01-01T03/1990-01-01T20", np.arange(6, 20, 6)),
        ("1990-01-02", [24]),
    ],
)
def test_times(make_dataset, tmp_path, times, hours):
    make_dataset(names=("temperature",)).to_zarr(tmp_path / "s", zarr_format=2)
    fields = open_fields(str(tmp_path / "s"), None, LEVELS)
    start = np.datetime64("1990-01-01", "ns")
    chosen = select_times(fields, times)
    assert chosen.dtype == "datetime64[ns]"
    assert ((chosen - start) / np.timedelta64(1, "h")).tolist() == list(hours)
    blocks = list(fields["temperature"].blocks(chosen))
    read = np.concatenate([fields["temperature"].read(block) for block in blocks])
    expected = make_dataset(names=("temperature",)).temperature.sel(time=chosen)
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 4, 3], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 1, 5, 6, 7]]
)
def test_times_in_any_order(make_dataset, tmp_path, order):
    """A run of times need not be a run of places in the file."""
    dataset = make_dataset(names=("temperature",)).isel(time=order)
    dataset.chunk(time=10).to_zarr(tmp_path / "s", zarr_format=2)
    field = open_fields(str(tmp_path / "s"), None, LEVELS)["temperature"]
    expected = dataset.sortby("time").temperature
    np.testing.assert_array_equal(field.times, expected.time)
    np.testing.assert_array_equal(read_all(field), expected)


def units(dataset):
    dataset.temperature.attrs["units"] = "degC"
    return dataset


def no_units(dataset):
    del dataset.temperature.attrs["units"]
    return dataset


def level_numbers(dataset):
    dataset.level.attrs["units"] = "number"
    return dataset


BAD = {
    "wrong units": (units, "has units 'degC'; convert it to 'K'"),
    "no units": (no_units, "temperature .* has no units"),
    "renamed": (
        lambda d: d.rename(temperature="temprature"),
        "has no temperature; did you mean temprature\\?",
    ),
    "level": (
        lambda d: d.isel(level=[0]),
        "has no level 850 hPa: take .* by --levels=500",
    ),
    "no levels": (lambda d: d.isel(level=0, drop=True), "has no pressure levels"),
    "time gap": (
        lambda d: d.isel(time=[0, 1, 2, 5, 6]),
        "temperature has no time 1990-01-01T18:00 \\(2 of 7 are missing",
    ),
    "extra axis": (
        lambda d: d.expand_dims(expver=2),
        "further dimensions \\['expver'\\]",
    ),
    "latitude order": (
        lambda d: d.isel(latitude=[0, 2, 1, *range(3, 33)]),
        "latitudes of .* are not in order: sort the source by latitude",
    ),
    "level units": (level_numbers, "levels of .* have units 'number', not hPa or Pa"),
    "time twice": (
        lambda d: d.isel(time=[0, 1, 1, 2]),
        "time 1990-01-01T06:00 is in the source more than once",
    ),
    "no latitude": (lambda d: d.drop_vars("latitude"), "no one-dimensional latitude"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_sources(make_dataset, tmp_path, kind):
    change, message = BAD[kind]
    path = tmp_path / "source.nc"
    change(make_dataset()).to_netcdf(path)
    with pytest.raises(UserError, match=message) as info:
        select_times(open_fields(str(path), ["temperature"], LEVELS), None)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("1980-01-01/1980-02-01", "no times from 1980-01-01T00:00 .* have 1990"),
        ("1989-12-30/1990-01-02", "has no time 1989-12-30T00:00"),
        ("1990-01-02/1990-02-01", "has no time 1990-01-03T12:00"),
        ("1990-01-02/1990-01-01", "cannot read the times"),
        ("yesterday", "cannot read the times"),
        ("1990-01-01/1990-01-02/0h", "cannot read the times"),
        ("1990-01-01/1990-01-02/5h", "has no time 1990-01-01T05:00"),
    ],
)
def test_bad_times(make_dataset, tmp_path, times, message):
    make_dataset(names=("temperature",)).to_netcdf(tmp_path / "source.nc")
    fields = open_fields(str(tmp_path / "source.nc"), None, LEVELS)
    with pytest.raises(UserError, match=message) as info:
        select_times(fields, times)
    assert "\n" not in str(info.value)


def test_not_a_source(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_fields(str(tmp_path / "nothing"), None, LEVELS)
    (tmp_path / "text.nc").write_text("no data")
    with pytest.raises(UserError, match="cannot open .* as a NetCDF file"):
        open_fields(str(tmp_path / "text.nc"), None, LEVELS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot open .* as a Zarr store") as info:
        open_fields(str(tmp_path / "folder"), None, LEVELS)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", np.nan, "has NaN at 1990-01-01T06:00, 850 hPa"),
        ("temperature", 20.0, r"implausible values \(20 to 20.* 06:00|T06:00, 850 hPa"),
        ("geopotential", 1e7, "geopotential has implausible values"),
        ("specific_humidity", -0.5, "specific_humidity has implausible values"),
    ],
)
def test_values(name, value, message):
    variable = VARIABLES[name]
    fields = np.full((3, 2, 4, 8), np.mean(variable.plausible) / 2, np.float32)
    fields = np.clip(fields, 200, None) if name == "temperature" else fields
    times = np.datetime64("1990-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h")
    variable.check_values(fields, times, np.array(LEVELS))
    fields[1, 1, 2, 3] = value
    with pytest.raises(UserError, match=message) as info:
        variable.check_values(fields, times, np.array(LEVELS))
    assert "\n" not in str(info.value)


def test_undefined_points_where_allowed():
    variable = VARIABLES["sea_surface_temperature"]
    fields = np.full((2, 1, 4, 8), 290, np.float32)
    fields[:, :, :2] = np.nan
    times = np.datetime64("1990-01-01", "ns") + np.arange(2) * np.timedelta64(6, "h")
    variable.check_values(fields, times, np.array([]))
    fields[0, 0, 3] = 900
    with pytest.raises(UserError, match="implausible values .* at 1990-01-01T00:00"):
        variable.check_values(fields, times, np.array([]))
    fields[0, 0, 3] = 290
    fields[1] = np.nan
    with pytest.raises(UserError, match="is NaN everywhere at 1990-01-01T06:00:"):
        variable.check_values(fields, times, np.array([]))


def test_real_era5_passes_the_checks(era5_tl31):
    """Zero cloud levels and condensate down to -1e-10 are sound."""
    for name in era5_tl31.data_vars:
        values = era5_tl31[name].transpose(..., "latitude", "longitude").values
        fields = values.reshape(1, -1, *values.shape[-2:])
        VARIABLES[name].check_units(era5_tl31[name].attrs["units"], "ERA5")
        VARIABLES[name].check_values(
            fields, np.array(["1959-01-02"], "datetime64[ns]"), era5_tl31.level.values
        )


# --- ARCO-ERA5, WeatherBench 2 ----------------------------------------------------


def test_arco_holds_its_valid_times_only(make_arco, tmp_path):
    path = make_arco(tmp_path / "s")
    fields = open_fields(path, None, LEVELS)
    assert list(fields) == [
        "temperature",
        "sea_surface_temperature",
        "geopotential_at_surface",
    ]
    times = select_times(fields, None)
    assert [str(t)[:13] for t in times[[0, -1]]] == ["1990-01-03T00", "1990-01-04T23"]
    field = fields["temperature"]
    assert [len(block) for block in field.blocks(times)] == [1] * 48
    stored = zarr.open_group(path, mode="r")["temperature"]
    for hour in (0, 47):
        np.testing.assert_array_equal(
            field.read(times[hour : hour + 1])[0], stored[48 + hour]
        )
    assert fields["temperature"].axis is fields["sea_surface_temperature"].axis
    for wanted, message in (
        ("1990-01-05/1990-01-06", "no times from 1990-01-05T00:00 to 1990-01-06"),
        ("1990-01-04/1990-01-05", "no time 1990-01-05T00:00"),
        ("1990-01-02T23/1990-01-03", "no time 1990-01-02T23:00"),
    ):
        valid = "1990-01-03T00:00 to 1990-01-04T23:00, valid_time_start"
        with pytest.raises(UserError, match=f"{message}.* {valid}") as info:
            select_times(fields, wanted)
        assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "instant", [None, "1990-01-01", "1990-01-04T12", "1990-01-05", "2020-01-01"]
)
def test_arco_static_fields_are_those_of_a_valid_time(make_arco, tmp_path, instant):
    path = make_arco(tmp_path / "s")
    time = None if instant is None else np.datetime64(instant, "ns")
    field = open_fields(path, None, LEVELS, time)["geopotential_at_surface"]
    assert len(field.times) == 0 and list(field.blocks(field.times))[0].size == 0
    got = field.read(field.times)
    assert got.shape == (1, 1, 33, 64)
    stored = zarr.open_group(path, mode="r")["geopotential_at_surface"]
    np.testing.assert_array_equal(got[0, 0], stored[48])


def test_arco_of_other_valid_times(make_arco, tmp_path):
    path = make_arco(tmp_path / "s", valid_time_stop="1990-01-03T05:00Z")
    assert len(open_fields(path, None, LEVELS)["temperature"].times) == 6
    path = make_arco(tmp_path / "t", valid_time_stop="soon")
    with pytest.raises(UserError, match="valid_time_start and valid_time_stop are no"):
        open_fields(path, None, LEVELS)
    path = make_arco(tmp_path / "u", valid_time_start="2010-01-01")
    with pytest.raises(UserError, match="temperature .* no times that are valid"):
        open_fields(path, None, LEVELS)


def test_arco_chunk_that_is_missing_inside(make_arco, tmp_path):
    """The attributes are no guarantee."""
    path = make_arco(tmp_path / "s", fill_value=None)
    os.remove(tmp_path / "s/temperature/60.0.0.0")
    field = open_fields(path, None, LEVELS)["temperature"]
    time = np.array(["1990-01-03T12"], "datetime64[ns]")
    with pytest.raises(UserError, match="temperature has NaN at 1990-01-03T12:00, 500"):
        field.variable.check_values(field.read(time), time, np.array(LEVELS))


def test_weatherbench_order(make_dataset, tmp_path):
    """(time, level, longitude, latitude), latitude ascending, 13 levels."""
    levels = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
    dataset = make_dataset(levels=levels).isel(latitude=slice(None, None, -1))
    turned = dataset.transpose("time", "level", "longitude", "latitude")
    turned.chunk(time=4).to_zarr(tmp_path / "s", zarr_format=2)
    taken = (500.0, 250.0, 850.0)
    fields = open_fields(str(tmp_path / "s"), None, taken)
    field = fields["temperature"]
    np.testing.assert_array_equal(field.latitude, dataset.latitude)
    got = read_all(field)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, dataset.temperature.sel(level=list(taken)))
    np.testing.assert_array_equal(
        read_all(fields["sea_surface_temperature"])[:, 0],
        dataset.sea_surface_temperature,
    )


# --- members, forcings --------------------------------------------------------------


@pytest.mark.parametrize("name", ["number", "member", "realization", "ensemble"])
def test_members(make_dataset, tmp_path, name):
    dataset = make_dataset()
    different = [dataset + i for i in range(3)]
    members = xarray.concat(different, name, data_vars="different", compat="equals")
    members = members.assign_coords({name: [4, 5, 9]})
    for variable in members.data_vars:
        members[variable].attrs = dataset[variable].attrs
    members["land_sea_mask"] = dataset.land_sea_mask
    members.to_zarr(tmp_path / "s", zarr_format=2)
    dataset.to_zarr(tmp_path / "one", zarr_format=2)
    members.isel({name: [1]}).to_zarr(tmp_path / "single", zarr_format=2)
    members.drop_vars(name).to_zarr(tmp_path / "counted", zarr_format=2)
    source = str(tmp_path / "s")
    with pytest.raises(UserError, match=r"choose one by --member=4\|5\|9"):
        open_fields(source, None, LEVELS)
    with pytest.raises(UserError, match=r"has no member 1: it has \[4, 5, 9\]"):
        open_fields(source, None, LEVELS, member=1)
    with pytest.raises(UserError, match="has no members: leave out --member=4"):
        open_fields(str(tmp_path / "one"), None, LEVELS, member=4)
    expected = dataset.temperature + 1
    for path, member in ((source, 5), (str(tmp_path / "single"), None)):
        field = open_fields(path, None, LEVELS, member=member)["temperature"]
        np.testing.assert_array_equal(read_all(field), expected)
    counted = open_fields(str(tmp_path / "counted"), None, LEVELS, member=1)
    np.testing.assert_array_equal(read_all(counted["temperature"]), expected)
    # Static fields are those of all members.
    names = ["temperature", "land_sea_mask"]
    fields = open_all(source, str(tmp_path / "one"), names, LEVELS, None, member=9)
    np.testing.assert_array_equal(
        fields["land_sea_mask"].read(np.array([]))[0, 0], dataset.land_sea_mask
    )


def test_forcings_are_shifted(make_dataset, tmp_path):
    dataset = make_dataset()
    dataset.chunk(time=4).to_zarr(tmp_path / "s", zarr_format=2)
    names = ["temperature", "sea_surface_temperature"]
    fields = open_all(str(tmp_path / "s"), None, names, LEVELS, None, shift_hours=24)
    times = select_times(fields, None)
    np.testing.assert_array_equal(times, dataset.time[4:])
    sea = fields["sea_surface_temperature"]
    blocks = list(sea.blocks(times))
    assert [len(block) for block in blocks] == [4, 2]
    read = np.concatenate([sea.read(block) for block in blocks])[:, 0]
    np.testing.assert_array_equal(read, dataset.sea_surface_temperature[:6])
    air = np.concatenate([*map(fields["temperature"].read, blocks)])
    np.testing.assert_array_equal(air, dataset.temperature[4:])
    message = "no time 1989-12-31T06:00, which is taken 24 hours later"
    with pytest.raises(UserError, match=f"sea_surface_temperature has {message}"):
        select_times(fields, "1990-01-01T06/1990-01-02")
    (tmp_path / "s/sea_surface_temperature/0.0.0").write_bytes(b"no data")
    message = "cannot read sea_surface_temperature at 1990-01-01T00:00 to 1990-01-01T06"
    with pytest.raises(UserError, match=message):
        sea.read(times[:2])


def test_skipped_times(make_dataset, tmp_path):
    dataset = make_dataset(names=("temperature",)).isel(time=[0, 1, 2, 5, 6, 8, 9])
    dataset.to_netcdf(tmp_path / "s.nc")
    fields = open_fields(str(tmp_path / "s.nc"), None, LEVELS)
    with pytest.raises(UserError, match="no time 1990-01-01T18:00 .* by --skip_times"):
        select_times(fields, None)
    skip = "1990-01-01T18/1990-01-02,1990-01-02T18"
    np.testing.assert_array_equal(
        select_times(fields, None, skip_times=skip), dataset.time
    )
    with pytest.raises(UserError, match="no time 1990-01-02T18:00"):
        select_times(fields, None, skip_times=skip[:24])
    with pytest.raises(UserError, match="leaves out all times"):
        select_times(fields, "1990-01-01", skip_times="1990-01-01/1990-01-05")


def test_a_time_that_is_gone(make_dataset, tmp_path):
    make_dataset(names=("temperature",)).to_netcdf(tmp_path / "s.nc")
    field = open_fields(str(tmp_path / "s.nc"), None, LEVELS)["temperature"]
    with pytest.raises(UserError, match="temperature has no time 1990-01-01T03:00"):
        field.read(np.array(["1990-01-01T03"], "datetime64[ns]"))


def test_addresses_are_of_zarr_stores(tmp_path):
    with pytest.raises(UserError, match="wildcards are for local files"):
        open_fields("gs://bucket/*.zarr", None, LEVELS)
    with pytest.raises(UserError, match="copy it here, only Zarr stores are remote"):
        open_fields("gs://bucket/era5.nc", None, LEVELS)
    with pytest.raises(UserError, match="^cannot open ftp://host/s: .*unsupported URL"):
        open_fields("ftp://host/s", None, LEVELS)


def test_many_names_are_cut_short(make_dataset, tmp_path):
    field = make_dataset(names=("temperature",)).temperature
    names = {f"other_{i:02}": field for i in range(30)}
    xarray.Dataset(names).to_netcdf(tmp_path / "s.nc")
    with pytest.raises(UserError, match="other_19 and 10 more$"):
        open_fields(str(tmp_path / "s.nc"), ["temperature"], LEVELS)


def test_real_analyses_pass_the_checks(real_data):
    paths = [f"{real_data}/eraint_2005012300_{name}.nc" for name in "tuv"]
    paths += [
        f"{real_data}/era5_static_025_{n}.nc" for n in ("geopotential", "land_sea_mask")
    ]
    instant = np.datetime64("2005-01-23", "ns")
    fields = open_fields(",".join(paths), None, PRESSURE_LEVELS, instant)
    assert list(fields) == [
        "temperature",
        "u_component_of_wind",
        "v_component_of_wind",
        "geopotential_at_surface",
        "land_sea_mask",
    ]
    for field in fields.values():
        times = np.array([instant])
        field.variable.check_values(
            field.read(field.times), times, np.array(PRESSURE_LEVELS)
        )
