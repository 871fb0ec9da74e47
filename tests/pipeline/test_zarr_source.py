"""Zarr sources, read through TensorStore and over HTTP."""

import functools
import http.server
import os
import threading

import numcodecs
import numpy as np
import pytest
import xarray
import zarr
import zarr.codecs.numcodecs

from pipeline.errors import UserError
from pipeline.source import open_fields
from tests.pipeline.test_source import LEVELS, read_all


def zarr_array(path, values, zarr_format=2, **options):
    """Writes one field of temperature, [time, level, latitude, longitude]."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    dims = ("time", "level", "latitude", "longitude")
    coordinates = {
        "time": np.arange(len(values)),
        "level": np.array(LEVELS),
        "latitude": np.linspace(90, -90, values.shape[2]),
        "longitude": np.arange(values.shape[3]) * 360 / values.shape[3],
    }
    attributes = options.pop("attributes", {}) | {"units": "K"}
    fields = {name: (x, (name,), {}) for name, x in coordinates.items()}
    fields["time"][2]["units"] = "hours since 1990-01-01"
    fields["temperature"] = values, dims, attributes
    for name, (x, names, attrs) in fields.items():
        chosen = options if name == "temperature" else {}
        if zarr_format == 2:
            # xarray takes any other value for undefined.
            chosen = {"fill_value": None} | chosen
            attrs |= {"_ARRAY_DIMENSIONS": list(names)}
        else:
            chosen = chosen | {"dimension_names": names}
        array = group.create_array(name, shape=x.shape, dtype=x.dtype, **chosen)
        array[...] = x
        array.attrs.update(attrs)
    return str(path)


def values(dtype="float32", steps=3):
    random = np.random.default_rng(1)
    return random.uniform(200, 300, (steps, 2, 16, 32)).astype(dtype)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "attributes"),
    [
        ("float32", {}),
        ("float64", {}),
        (">f4", {}),
        ("int16", {}),
        ("int32", {"scale_factor": 0.5, "add_offset": -3.0, "missing_value": 222}),
        ("int16", {"scale_factor": 0.01, "add_offset": 1e4, "_FillValue": 222}),
        ("float64", {"_FillValue": 222.0, "scale_factor": 2.0}),
        ("float32", {"_FillValue": 222.0}),
        ("int8", {"_Unsigned": "true"}),
    ],
)
def test_values_are_those_of_xarray(tmp_path, zarr_format, dtype, attributes):
    data = values(dtype)
    data[1, 0, 3:5] = np.array(222).astype(dtype)
    fill = attributes.get("_FillValue")
    attributes = {k: v for k, v in attributes.items() if k != "_FillValue"}
    options = {"attributes": attributes}
    if zarr_format == 2:  # Which has no such attribute.
        options["fill_value"] = fill
    elif fill is not None:
        attributes["missing_value"] = fill
    path = zarr_array(tmp_path / "s", data, zarr_format, **options)
    field = open_fields(path, None, LEVELS)["temperature"]
    expected = xarray.open_zarr(path, consolidated=False).temperature.values
    got = read_all(field)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    # Once rounded from float64, whatever xarray chooses to compute in.
    np.testing.assert_allclose(got, expected, rtol=1.2e-7)
    defined = fill is None and "missing_value" not in attributes
    assert np.isnan(expected).any() != defined
    part = open_fields(path, None, LEVELS[1:])["temperature"]
    np.testing.assert_array_equal(read_all(part), got[:, 1:])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_codecs_that_only_xarray_knows(tmp_path, capfd, zarr_format):
    data = values()
    delta = {2: numcodecs.Delta("f4"), 3: zarr.codecs.numcodecs.Delta(dtype="<f4")}
    path = zarr_array(tmp_path / "s", data, zarr_format, filters=[delta[zarr_format]])
    field = open_fields(path, None, LEVELS)["temperature"]
    np.testing.assert_allclose(read_all(field), data, rtol=1e-6)
    read_all(field)
    notes = capfd.readouterr().err
    assert notes.count("read through xarray, which is slower") == 1
    assert notes.startswith("note: temperature of ") and notes.count("\n") == 1


@pytest.mark.parametrize("fill_value", [np.nan, None])
@pytest.mark.parametrize("separator", [".", "/"])
def test_chunks_that_do_not_exist_are_undefined(tmp_path, fill_value, separator):
    """Even where the store leaves open what they are."""
    path = zarr_array(
        tmp_path / "s",
        values(),
        chunks=(1, 2, 16, 32),
        fill_value=fill_value,
        chunk_key_encoding={"name": "v2", "separator": separator},
    )
    os.remove(os.path.join(path, "temperature", separator.join("1000")))
    field = open_fields(path, None, LEVELS)["temperature"]
    read = read_all(field)
    assert np.isnan(read[1]).all() and np.isfinite(read[[0, 2]]).all()
    with pytest.raises(UserError, match="temperature has NaN at 1990-01-01T01:00, 500"):
        field.variable.check_values(read, field.times, np.array(LEVELS))


@pytest.mark.parametrize("kind", ["cut", "other"])
def test_damaged_chunks_are_named(tmp_path, kind):
    path = zarr_array(tmp_path / "s", values(), chunks=(1, 2, 16, 32))
    chunk = tmp_path / "s/temperature/2.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20] if kind == "cut" else b"other" * 9)
    field = open_fields(path, None, LEVELS)["temperature"]
    assert np.isfinite(field.read(field.times[1:2])).all()
    with pytest.raises(UserError, match="cannot read temperature at 1990-01-01T02:00 "):
        field.read(field.times[2:])


def test_our_own_stores_are_sources(make_dataset, tmp_path):
    """Sharded, with consolidated metadata; on Gaussian latitudes."""
    from pipeline.preprocess import preprocess

    make_dataset().to_zarr(tmp_path / "source", zarr_format=2)
    store = preprocess(
        str(tmp_path / "source"),
        str(tmp_path / "store"),
        "T21",
        variables="temperature,land_sea_mask",
        levels="500,850",
        shard_steps=4,
    )
    fields = open_fields(str(tmp_path / "store"), None, (850.0,))
    times = np.arange(10)
    np.testing.assert_array_equal(
        read_all(fields["temperature"]), store.read("temperature", times)[:, 1:]
    )
    np.testing.assert_array_equal(fields["temperature"].times, store.times)
    np.testing.assert_array_equal(
        fields["land_sea_mask"].read(times[:0])[0, 0], store.read("land_sea_mask", None)
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_over_http(make_arco, tmp_path):
    path = make_arco(tmp_path / "s")
    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/s"
        there = open_fields(address, None, LEVELS)
        here = open_fields(path, None, LEVELS)
        assert list(there) == list(here)
        for name, field in here.items():
            times = field.times[5:6]
            np.testing.assert_array_equal(there[name].read(times), field.read(times))
        with pytest.raises(UserError, match="cannot open .*/none as a Zarr store"):
            open_fields(address + "/none", None, LEVELS)
        os.remove(tmp_path / "s/.zmetadata")
        with pytest.raises(UserError, match="has no consolidated metadata"):
            open_fields(address, None, LEVELS)
        server.shutdown()
