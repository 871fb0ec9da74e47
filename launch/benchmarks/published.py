"""A published model in this project and in the official package, side by side.

Both start from one real analysis with the same weights and the same random fields, in
one process on one device. Hours are simulated in turns and timed; decoded forecasts
are compared.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
import matplotlib
import numpy as np
import xarray
from flax import nnx

from launch.compile_anew import compile_anew
from launch.published.checkpoint import Published, read_published
from launch.published.importer import ground, translate
from model.neural_gcm import Frame, ModelState, NeuralGCM
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES, TRACERS, ModelSpec
from model.sphere.grids import GaussianGrid, fold, parse_grid, unfold
from model.sphere.harmonics import SphericalHarmonics
from pipeline.errors import UserError
from train.calibration import with_scales
from train.data import keep_freed_memory
from train.step import Params, merge_networks

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

LEADS = (1, 6, 24)  # h, of forecasts that are compared
LEVELS = (100, 1000)  # hPa, between which they are
ROUNDS = 5  # hours that are timed, at least
_BOUNDED = (*TRACERS, *SURFACE_VARIABLES)

Fields = dict[str, np.ndarray]
"""By ERA5 name in SI units, [..., latitude, longitude] from south to north."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case, times of both, their ratios, and how far forecasts are apart.

    Raises:
      UserError: if an argument makes no sense, the official package is not installed,
        or the checkpoint cannot be compared.
    """
    if args.hours < 1:
        raise UserError(f"--hours={args.hours} must be at least 1")
    # Or hours are timed with their page faults; before JAX starts its threads.
    keep_freed_memory(one_arena=True)
    from launch.benchmarks.published_judge import OfficialForecast

    path = args.checkpoint or _official_data() / "tl63_stochastic_mini.pkl"
    published = read_published(path)
    _, spec, params, scales = translate(published)
    if spec.networks.noise and spec.step_minutes != 60:
        raise UserError(
            f"{path} draws random fields more than once an hour: they cannot be made "
            "the same in both"
        )
    inputs = interpolated_analysis(published, spec)
    with jax.enable_x64(False), compile_anew():
        official = OfficialForecast(path, inputs)
        _log("compiling the official package's programs")
        official.begin()
        model = with_scales(NeuralGCM.create(spec, *_statics(published)), scales)
        ours = OurForecast(model, jax.tree.map(jnp.asarray, params), inputs)
        _log("compiling ours")
        ours.begin(official.encoder_noise, official.noise)
        seconds, errors, last = _forecast(ours, official, args.hours)
    if args.plot:
        _draw(spec, last, args.hours, args.plot)
    figures = {
        name: {
            "hour_s": statistics.median(seconds[name]),
            "compile_s": forecast.compile_seconds,
        }
        for name, forecast in [("ours", ours), ("official", official)]
    }
    return {
        "case": {
            "what": "a forecast with the same weights, inputs and random fields; "
            "hour_s is the median time of a simulated hour after compilation, hours of "
            "both in turns; compile_s that of .lower().compile() of encoder, advance "
            "by an hour and decoder, without a cache; error is |ours - official| / "
            "|official - official at 0 h|, both L2 over points and levels, by lead in "
            "hours",
            "checkpoint": str(path),
            "analysis": str(inputs.time.values),
            "grid": str(spec.grid),
            "core_grid": {
                "ours": str(spec.dycore_grid),
                "official": official.core_grid,
            },
            "layers": spec.sigma.layers,
            "levels_hpa": LEVELS,
            "steps_per_hour": {
                "physics": 60 // spec.step_minutes,
                "core": 60 // spec.step_minutes * spec.substeps,
            },
            "hours": args.hours,
            "hours_timed": len(seconds["ours"]),
            "dtype": "float32",
            "device": jax.devices()[0].device_kind,
        },
        **figures,
        "ratio": {
            name: figures["official"][name] / value
            for name, value in figures["ours"].items()
        },
        "error": errors,
    }


def _forecast(
    ours: "OurForecast", official: Any, hours: int
) -> tuple[dict[str, list[float]], dict[str, dict[int, float]], dict[str, Fields]]:
    """Simulates and compares both.

    Returns:
      Seconds of each hour, by whose; errors by variable and lead in hours; and the
      decoded fields after `hours`, by whose.
    """
    last: dict[str, Fields] = {}
    start = official.decoded()
    seconds: dict[str, list[float]] = {"ours": [], "official": []}
    errors: dict[str, dict[int, float]] = {name: {} for name in LEVEL_VARIABLES}
    for lead in range(1, max(hours, ROUNDS) + 1):
        seconds["ours"].append(_timed(ours.advance))
        seconds["official"].append(_timed(official.advance))
        ours.set_noise(official.noise)
        _log(
            f"hour {lead}: "
            + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
        )
        if lead == hours or lead in LEADS and lead < hours:
            last = {"official": official.decoded(), "ours": ours.decoded()}
            theirs = last["official"]
            for name, x in last["ours"].items():
                distance = _norm(x - theirs[name], ours.spec)
                change = _norm(theirs[name] - start[name], ours.spec)
                errors[name][lead] = distance / change
    return seconds, errors, last


def _draw(spec: ModelSpec, last: dict[str, Fields], hours: int, file: str) -> None:
    """Maps of both forecasts, and of their difference, which has a scale of its own."""
    shown = [
        (name, level, unit)
        for name, level, unit in (
            ("temperature", 850.0, "K"),
            ("geopotential", 500.0, "m2/s2"),
            ("specific_humidity", 850.0, "kg/kg"),
        )
        if level in spec.levels
    ]
    x, y = spec.grid.longitude_degrees, spec.grid.latitude_degrees
    figure, axes = plt.subplots(
        *(len(shown), 3),
        figsize=(15, 2.7 * len(shown)),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, level, unit) in zip(axes, shown, strict=True):
        k = spec.levels.index(level)
        official, ours = (last[who][name][k] for who in ("official", "ours"))
        largest = np.abs(ours - official).max()
        limits = {"vmin": official.min(), "vmax": official.max(), "cmap": "viridis"}
        difference = {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"}
        for axis, title, field, style in [
            (row[0], "official package", official, limits),
            (row[1], "PodGCM", ours, limits),
            (row[2], "difference", ours - official, difference),
        ]:
            image = axis.pcolormesh(x, y, field, shading="nearest", **style)
            axis.set_title(f"{title}: {name} {level:g} hPa ({unit})", fontsize=9)
            figure.colorbar(image, ax=axis)
    figure.suptitle(f"{hours} h from a real ERA5 analysis, the same published weights")
    figure.savefig(file, dpi=100)
    plt.close(figure)


@dataclasses.dataclass
class OurForecast:
    """A forecast with our model.

    Attributes:
      model, params: of the checkpoint.
      inputs: fields [..., latitude, longitude], and their time.
      compile_seconds: of encoder, advance by an hour, and decoder.
    """

    model: NeuralGCM
    params: Params
    inputs: xarray.Dataset
    compile_seconds: float = 0.0

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def begin(
        self, encoder_noise: jax.Array | None, later_noise: jax.Array | None
    ) -> None:
        """Compiles the programs and encodes, with the official random fields."""
        frame = {n: jnp.asarray(fold(x.values)) for n, x in self.inputs.items()}
        self._time = jax_datetime.to_datetime(self.inputs.time.values)
        encoder_noise = _our_noise(encoder_noise)
        given = (self.model, self.params, frame)

        def compiled(function: Callable, *args: Any) -> Callable:
            program, seconds = compile_timed(jax.jit(function), *given, *args)
            self.compile_seconds += seconds
            return lambda *args: program(*given, *args)

        encode = compiled(_encode, self._time, encoder_noise)
        self._state = encode(self._time, encoder_noise)
        self._advance = compiled(_advance, self._time, self._state)
        self._decode = compiled(_decode, self._time, self._state)
        self.set_noise(later_noise)

    def set_noise(self, noise: jax.Array | None) -> None:
        """Replaces the random fields by official ones."""
        fields = _our_noise(noise)
        if fields is not None:
            noise = dataclasses.replace(self._state.noise, fields=fields)
            self._state = dataclasses.replace(self._state, noise=noise)

    def advance(self) -> ModelState:
        """One hour."""
        self._state = self._advance(self._time, self._state)
        self._time += jax_datetime.to_timedelta(1, "h")
        return self._state

    def decoded(self) -> Fields:
        """`LEVEL_VARIABLES`, [level, latitude, longitude]."""
        fields = self._decode(self._time, self._state)
        return {name: unfold(np.asarray(x)) for name, x in fields.items()}


class _Given(nnx.Module):
    """A law of random fields in the place of `Correlations`: they are given."""

    def __init__(self, fields: jax.Array) -> None:
        self.fields = nnx.Variable(fields)

    def __call__(self) -> "_Given":
        return self

    def initial(self, key: jax.Array, harmonics: SphericalHarmonics) -> jax.Array:
        return self.fields[...]


def _encode(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    noise: jax.Array | None,
) -> ModelState:
    """With random fields for the encoder, spectral [field, 2, m, l], that are given."""
    networks = merge_networks(model.spec, params)
    if noise is not None:
        networks.noise["encoder"] = _Given(noise)
    return model.encode(frame, time, networks, jax.random.key(0))


def _advance(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    state: ModelState,
) -> ModelState:
    return model.rollout(state, frame, time, 1, merge_networks(model.spec, params))


def _decode(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    state: ModelState,
) -> Frame:
    surroundings = model.surroundings(frame, time)
    return model.decode(state, surroundings, merge_networks(model.spec, params))


# ---- inputs


def _official_data() -> pathlib.Path:
    """The folder of data in the official package."""
    spec = importlib.util.find_spec("neuralgcm")
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


def _statics(published: Published) -> tuple[np.ndarray, np.ndarray]:
    """Geopotential of the ground and land, [latitude, longitude]."""
    of_checkpoint = ground(published)
    return of_checkpoint.geopotential_at_surface, of_checkpoint.land_sea_mask


def interpolated_analysis(published: Published, spec: ModelSpec) -> xarray.Dataset:
    """The official package's ERA5 analysis on a checkpoint's grid, float32.

    Its 31 waves are kept as they are. Fields that have bounds are brought back between
    the least and the largest value of their level.

    Raises:
      UserError: if the checkpoint has other levels.
    """
    analysis = xarray.load_dataset(_official_data() / "era5_tl31_19590102T00.nc")
    if not np.array_equal(analysis.level, spec.levels):
        raise UserError("the checkpoint is not for the 37 levels of the analysis")
    plane = ("latitude", "longitude")
    fields = {}
    for name in (*LEVEL_VARIABLES, *SURFACE_VARIABLES):
        field = analysis[name].transpose(..., *plane)
        x = interpolated(field.values, parse_grid("TL31"), spec.grid)
        if name in _BOUNDED:
            least = field.min(plane).values[..., None, None]
            most = field.max(plane).values[..., None, None]
            x = np.clip(x, least, most)
        fields[name] = (field.dims, x.astype(np.float32))
    places = {name: published.statics[name] for name in plane}
    return xarray.Dataset(
        fields, {"level": analysis.level, "time": analysis.time, **places}
    )


def interpolated(
    x: np.ndarray, source: GaussianGrid, target: GaussianGrid
) -> np.ndarray:
    """[..., latitude, longitude] on a finer grid, with the same waves, in float64."""
    with jax.enable_x64(True):
        coarse, fine = (
            SphericalHarmonics.create(grid, jnp.float64) for grid in (source, target)
        )
        modal = coarse.analysis(jnp.asarray(x, jnp.float64))
        return np.asarray(fine.synthesis(coarse.with_waves_of(fine, modal)))


# ---- comparison


def _our_noise(modal: jax.Array | None) -> jax.Array | None:
    return None if modal is None else jnp.asarray(our_modal(np.asarray(modal)))


def our_modal(x: np.ndarray) -> np.ndarray:
    """Spectral coefficients in dinosaur's order -> in ours.

    [..., row, l] -> [..., 2, m, l]. Its rows are the cosine and the sine of m = 0, of
    m = 1, and so on; some of its implementations leave out the sine of 0.
    """
    if x.shape[-2] % 2:
        x = np.insert(x, 1, 0, axis=-2)
    by_part = x.reshape(*x.shape[:-2], -1, 2, x.shape[-1])
    modal = by_part.swapaxes(-3, -2)
    return np.pad(modal, [(0, 0)] * (modal.ndim - 1) + [(0, x.shape[-1] % 2)])


def _norm(x: np.ndarray, spec: ModelSpec) -> float:
    """L2 over the points and `LEVELS` of a field [level, latitude, longitude]."""
    levels = np.asarray(spec.levels)
    used = x[(levels >= LEVELS[0]) & (levels <= LEVELS[1])].astype(np.float64)
    weights = spec.grid.latitude_weights[:, None]
    return float(np.sqrt(np.sum(weights * used**2)))


# ---- times


def compile_timed(function: Any, *args: Any) -> tuple[Callable, float]:
    """The program of a jitted function, and the seconds that it took to make."""
    begun = time.perf_counter()
    program = function.lower(*args).compile()
    return program, time.perf_counter() - begun


def _timed(function: Callable[[], Any]) -> float:
    """Seconds that a function takes until its result is there."""
    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun


def _log(line: str) -> None:
    print(f"published: {line}", file=sys.stderr, flush=True)
