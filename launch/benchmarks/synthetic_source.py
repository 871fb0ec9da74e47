"""A source as large as ERA5, in the layout of ARCO-ERA5, made of random waves.

Zarr format 2, a time and all levels in a chunk, Blosc with LZ4, latitudes from the
north, six-hourly. The spectrum of the waves is such that chunks compress as those of
ERA5 do, to about 0.63 of their size.
"""

import math
import os
import pathlib

import numcodecs
import numpy as np
import zarr

from pipeline.progress import progress
from pipeline.variables import PRESSURE_LEVELS, VARIABLES

VARIABLES_MADE = (
    "geopotential",
    "temperature",
    "sea_surface_temperature",
    "geopotential_at_surface",
    "land_sea_mask",
)
# Later times are links to the files of these: they need no more disk.
DISTINCT_STEPS = 8
# Of amplitudes, by wavenumber.
_SLOPE = -1.5
_GAS_CONSTANT = 287.05  # J kg-1 K-1, of dry air


def make_source(path: pathlib.Path, degrees: float, steps: int) -> None:
    """Writes a source of `steps` times on points `degrees` apart, poles included.

    Sea surface temperature is NaN over land; static fields have no times.
    """
    unfinished = path.with_suffix(".unfinished")
    group = zarr.open_group(unfinished, mode="w", zarr_format=2)
    group.attrs.update(simulated="random waves, not the Earth")
    latitude, longitude = horizontal_points(degrees)
    shape = len(latitude), len(longitude)
    levels = np.array(PRESSURE_LEVELS)
    coordinates = {
        "time": (np.arange(steps) * 6, {"units": "hours since 1990-01-01"}),
        "level": (levels.astype(np.int64), {"units": "hPa"}),
        "latitude": (latitude.astype(np.float32), {"units": "degrees_north"}),
        "longitude": (longitude.astype(np.float32), {"units": "degrees_east"}),
    }
    for name, (values, attributes) in coordinates.items():
        # With the fill value 0, which is Zarr's own, xarray takes 0 for undefined.
        array = group.create_array(name, data=values, fill_value=None)
        array.attrs.update(_ARRAY_DIMENSIONS=[name], **attributes)

    waves = [_waves(shape, seed) for seed in range(3)]
    east = max(1, len(longitude) // 288)  # points that waves move in a step
    land = waves[2] > 0.5
    surface = np.where(land, 9e3 * (waves[2] - 0.5), 0)
    means = np.interp(np.log(levels), np.log([1, 100, 1000]), [265, 205, 285])
    depths = np.diff(np.log(levels))

    def temperature(step: int) -> np.ndarray:
        first, second = (np.roll(wave, east * step, -1) for wave in waves[:2])
        fields = np.empty((len(levels), *shape), np.float32)
        for level, mean in enumerate(means):
            turn = 0.1 * (len(levels) - 1 - level)
            wave = math.cos(turn) * first + math.sin(turn) * second
            np.add(8 * wave, mean, out=fields[level])
        return fields

    def geopotential(step: int) -> np.ndarray:
        """Hydrostatic, from the ground up."""
        t = temperature(step)
        fields = np.empty_like(t)
        fields[-1] = 1000 + 100 * (t[-1] - means[-1])
        for level in range(len(levels) - 2, -1, -1):
            thickness = _GAS_CONSTANT * depths[level] / 2 * (t[level] + t[level + 1])
            np.add(fields[level + 1], thickness, out=fields[level])
        return fields

    def sea(step: int) -> np.ndarray:
        return np.where(land, np.nan, 288 + 4 * np.roll(waves[0], east * step, -1))

    series = {
        "geopotential": geopotential,
        "temperature": temperature,
        "sea_surface_temperature": sea,
    }
    static = {"geopotential_at_surface": surface, "land_sea_mask": land}

    for name in VARIABLES_MADE:
        kind = VARIABLES[name].kind
        dims = ("level",) * (kind == "levels") + ("latitude", "longitude")
        sizes = tuple(len(coordinates[dim][0]) for dim in dims)
        if kind != "static":
            dims, sizes = ("time", *dims), (steps, *sizes)
        array = group.create_array(
            name,
            shape=sizes,
            chunks=sizes if kind == "static" else (1, *sizes[1:]),
            dtype="float32",
            compressors=numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
            fill_value=np.nan,
        )
        array.attrs.update(_ARRAY_DIMENSIONS=dims, units=VARIABLES[name].units)
        if kind == "static":
            array[...] = static[name]
            continue
        made = range(min(steps, DISTINCT_STEPS))
        for step in progress(made, f"making {name}"):
            array[step] = series[name](step)
        others = ".0" * (len(sizes) - 1)
        for step in range(len(made), steps):
            # Forth and back, for a leap would be taken for a fault.
            last = DISTINCT_STEPS - 1
            same = abs((step + last) % (2 * last) - last)
            os.link(
                unfinished / name / f"{same}{others}",
                unfinished / name / f"{step}{others}",
            )
    zarr.consolidate_metadata(str(unfinished), zarr_format=2)
    unfinished.rename(path)


def horizontal_points(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes."""
    rows, columns = round(180 / degrees) + 1, round(360 / degrees)
    return np.linspace(90, -90, rows), np.arange(columns) * 360 / columns


def _waves(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A random field of mean 0 and deviation 1, [latitude, longitude], float32."""
    rows, columns = shape
    around = 2 * (rows - 1)  # over the poles and back
    wavenumber = np.hypot(
        np.fft.fftfreq(around, 1 / around)[:, None], np.arange(columns // 2 + 1)
    )
    wavenumber[0, 0] = np.inf
    random = np.random.default_rng(seed)
    real, imaginary = random.standard_normal((2, *wavenumber.shape))
    spectrum = (real + 1j * imaginary) * wavenumber**_SLOPE
    field = np.fft.irfft2(spectrum, (around, columns))[:rows]
    return ((field - field.mean()) / field.std()).astype(np.float32)
