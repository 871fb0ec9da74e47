"""A store of random weather, made without preprocessing.

The spectrum of the waves is such that LZ4 with bit shuffling leaves about 0.8 of
their bytes.
"""

from collections.abc import Callable

import numpy as np

from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from model.sphere.grids import parse_grid
from pipeline.files import Folder
from pipeline.layout import default_latitude_chunks, default_shard_steps, store_files
from pipeline.plan import Layout, Plan
from pipeline.progress import progress
from pipeline.store import Store
from pipeline.variables import PRESSURE_LEVELS
from pipeline.writer import begin, write_shard

_STEP_HOURS = 6
# Of amplitudes, by wavenumber.
_SLOPE = -2.0
_PATTERNS = 3  # of each level; every time is a sum of them, moved east at random
_SCALES = {
    "geopotential": (1e5, 3e3),
    "temperature": (250, 15),
    "sea_surface_temperature": (280, 10),
}
"""Mean and standard deviation; 0 and 1 for other variables."""


def make_store(
    path: str, grid: str, frames: int, layout: Layout = "variables"
) -> Store:
    """Writes `frames` times, six hours apart, in at least two shards.

    Statistics and static fields, which windows have no part of, are left out.
    """
    points = parse_grid(grid)
    levels = len(PRESSURE_LEVELS)
    channels = levels if layout == "variables" else len(LEVEL_VARIABLES) * levels
    start = np.datetime64("2001-01-01T00", "h")
    plan = Plan(
        source="random waves",
        static_source=None,
        member=None,
        forcing_shift_hours=0,
        grid=grid,
        edges="midpoint",
        sigma_layers=None,
        start=str(start),
        stop=str(start + _STEP_HOURS * (frames - 1)),
        step_hours=_STEP_HOURS,
        skipped=(),
        levels=PRESSURE_LEVELS,
        variables=(*LEVEL_VARIABLES, *SURFACE_VARIABLES),
        layout=layout,
        shard_steps=min(default_shard_steps(points, channels), frames // 2),
        latitude_chunks=default_latitude_chunks(points),
        keep_bits=None,
        stats_times=None,
        attributes={},
    )
    folder = Folder(path)
    begin(folder, plan)
    fields = random_fields(plan)
    for array, shard in progress(plan.items(), f"making {grid}, {layout}: shards"):
        parts = [fields(name, *plan.shard_times(shard)) for name in plan.arrays[array]]
        if layout == "stacked":
            parts = [x if x.ndim == 4 else x[:, None] for x in parts]
            parts = [np.concatenate(parts, axis=1)]
        write_shard(folder, plan, array, shard, parts[0])
    for name, content in store_files(plan, {}).items():
        folder.write(name, content)
    return Store(path, plan)


def random_fields(plan: Plan) -> Callable[[str, int, int], np.ndarray]:
    """A function of a variable, a first time and the time behind the last.

    Its fields are float32 [time, level, latitude, longitude], or without level.
    """
    random = np.random.default_rng(0)
    weights = random.normal(size=(plan.steps, _PATTERNS)).astype(np.float32)
    shifts = random.integers(0, plan.target.longitudes, weights.shape)
    patterns = {
        name: _waves((_PATTERNS, *_field_shape(plan, name)), random)
        for name in plan.variables
    }

    def fields(name: str, first: int, last: int) -> np.ndarray:
        mean, deviation = _SCALES.get(name, (0, 1))
        result = np.empty((last - first, *patterns[name].shape[1:]), np.float32)
        for field, weight, shift in zip(
            result, weights[first:last], shifts[first:last], strict=True
        ):
            field[:] = sum(
                w * np.roll(pattern, s, axis=-1)
                for w, s, pattern in zip(weight, shift, patterns[name], strict=True)
            )
        result *= deviation
        result += mean
        return result

    return fields


def _field_shape(plan: Plan, name: str) -> tuple[int, ...]:
    levels = (plan.depth,) if plan.kind(name) == "levels" else ()
    return *levels, *plan.target.shape


def _waves(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Fields of standard deviation 1 with a red spectrum, float32."""
    latitudes, longitudes = shape[-2:]
    wavenumber = np.hypot(
        np.fft.fftfreq(latitudes, 1 / latitudes)[:, None],
        np.fft.rfftfreq(longitudes, 1 / longitudes),
    )
    wavenumber[0, 0] = np.inf  # no mean
    size = (*shape[:-1], longitudes // 2 + 1)
    noise = random.normal(size=size) + 1j * random.normal(size=size)
    waves = np.fft.irfft2(noise * wavenumber**_SLOPE, s=shape[-2:])
    return (waves / waves.std()).astype(np.float32)
