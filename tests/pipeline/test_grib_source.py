"""GRIB files of several kinds, and of members of an ensemble."""

import functools
import os
import shutil

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.inspect import describe
from pipeline.preprocess import preprocess
from pipeline.source import open_fields, select_times
from tests.pipeline.test_source import LEVELS, read_all


@pytest.fixture
def grib(real_data, tmp_path):
    pytest.importorskip("cfgrib", reason="needs the extra `grib`")
    return shutil.copy(real_data / "era5_levels_members.grib", tmp_path)


@pytest.mark.parametrize("suffix", [".grib", ""])
def test_real_grib_of_members(grib, tmp_path, suffix):
    path = tmp_path / f"members{suffix}"
    os.rename(grib, path)
    with pytest.raises(UserError, match="z of .* --member=0|1|2|3|4|5|6|7|8|9"):
        open_fields(str(path), None, LEVELS)
    with pytest.raises(UserError, match="has no member 10: it has \\[0, 1, 2, "):
        open_fields(str(path), None, LEVELS, member=10)
    import cfgrib

    expected = cfgrib.open_dataset(path, backend_kwargs={"indexpath": ""})
    expected = expected.sel(number=7, isobaricInhPa=[500, 850])
    fields = open_fields(str(path), None, LEVELS, member=7)
    assert list(fields) == ["geopotential", "temperature"]
    for name, short in (("geopotential", "z"), ("temperature", "t")):
        field = fields[name]
        np.testing.assert_array_equal(field.times, expected.valid_time)
        np.testing.assert_array_equal(read_all(field), expected[short])
        field.variable.check_values(read_all(field), field.times, np.array(LEVELS))
    assert len(select_times(fields, None)) == 4
    # Nothing is left beside the source.
    assert os.listdir(tmp_path) == [path.name]


def test_grib_of_one_level_and_of_several_kinds(grib, tmp_path):
    """A single level is one; messages that differ in their axes are told apart."""
    import eccodes

    first, rest = tmp_path / "first.grib", tmp_path / "rest.grib"
    with open(grib, "rb") as source, first.open("wb") as one, rest.open("wb") as other:
        while (message := eccodes.codes_grib_new_from_file(source)) is not None:
            get = functools.partial(eccodes.codes_get, message)
            name, level, number = get("shortName"), get("level"), get("number")
            if number == 3 and (name, level) == ("z", 500):
                eccodes.codes_write(message, one)
            if number == 3 and (name == "t" or level == 850):
                eccodes.codes_write(message, other)
            eccodes.codes_release(message)
    fields = open_fields(str(first), None, (500.0,))
    assert list(fields) == ["geopotential"]
    assert read_all(fields["geopotential"]).shape == (4, 1, 61, 120)
    fields = open_fields(str(rest), None, (850.0,), member=3)
    whole = open_fields(str(grib), None, (850.0,), member=3)
    assert list(fields) == ["geopotential", "temperature"]
    for name in fields:
        np.testing.assert_array_equal(read_all(fields[name]), read_all(whole[name]))


def test_damaged_grib(tmp_path):
    (tmp_path / "text.grib").write_text("no data")
    with pytest.raises(UserError, match="text.grib") as info:
        open_fields(str(tmp_path / "text.grib"), None, LEVELS)
    assert "\n" not in str(info.value)


def test_real_grib_of_an_ensemble(real_data, tmp_path):
    pytest.importorskip("cfgrib", reason="needs the extra `grib`")
    file = str(real_data / "era5_levels_members.grib")
    arguments = {
        "source": file,
        "grid": "TL31",
        "variables": "geopotential,temperature",
        "levels": "500,850",
    }
    with pytest.raises(UserError, match="several members: choose one by --member=0|1"):
        preprocess(**arguments, output=str(tmp_path / "none"))
    stores = [
        preprocess(**arguments, output=str(tmp_path / str(member)), member=member)
        for member in (0, 7)
    ]
    times = stores[0].times
    assert len(times) == 4 and times[0] == np.datetime64("2017-01-01")
    assert stores[0].step == np.timedelta64(12, "h")
    a, b = (store.read("temperature", np.arange(4)) for store in stores)
    assert 250 < a[:, 0].mean() < 260 and 0 < np.abs(a - b).max() < 15
    assert describe(tmp_path / "7", deep=True)["whole"]
