"""The Beam pipelines of verification, and what is made of their results.

Two chains run one after the other, and leave small files, as in preprocessing:

    Create(variables and groups of hours) -> Reshuffle -> mean of the truth
    DatasetToChunks(a forecast) -> Reshuffle -> ScoreChunk       for each forecast

xarray-beam reads the forecasts, whatever their chunks; ours are read as they lie.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import xarray
import xarray_beam as xbeam

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.runners import DEFAULT_RUNNER, finish_pipeline, make_options
from pipeline.store import Store, open_store
from pipeline.verification import failures, tables
from pipeline.verification.chunks import BASELINES, TRUTH, ScoreChunk, chunk_file
from pipeline.verification.climatology import Climatology
from pipeline.verification.points import Points, parse_points
from pipeline.verification.scores import Scores, make_scores

_REQUEST = "request.json"
_CHUNK_LEADS = 4


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A forecast to be scored, opened.

    Attributes:
      label: by which it is told apart.
      path: of its Zarr store.
      dataset: its fields, not read.
      points: where they are.
    """

    label: str
    path: str
    dataset: xarray.Dataset
    points: Points

    @property
    def members(self) -> int:
        return self.dataset.sizes.get("number", 1)

    @property
    def times(self) -> np.ndarray:
        """Initial times."""
        return self.dataset.time.values

    @property
    def leads(self) -> np.ndarray:
        """Hours."""
        return self.dataset.prediction_timedelta.values.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was compared, and what came of it.

    Attributes:
      forecasts: opened.
      truth: the store.
      scores: of all.
      normal: what anomalies are from.
      points: where all was compared.
    """

    forecasts: tuple[Forecast, ...]
    truth: Store
    scores: Scores
    normal: str
    points: Points

    @property
    def note(self) -> str:
        """What must stand at every picture."""
        return "SIMULATED data" if "SIMULATED" in str(self.truth.attrs) else ""


def open_forecast(argument: str) -> Forecast:
    """Opens [LABEL=]PATH.

    Raises:
      UserError: if there is no finished forecast.
    """
    label, equals, path = argument.partition("=")
    if not equals:
        path = argument
        label = pathlib.Path(path).stem
    if not re.fullmatch(r"[\w.+-]+", label) or label in (*BASELINES, TRUTH):
        raise UserError(f"--forecast={argument}: {label!r} cannot be a label")
    if not Folder(path).exists("zarr.json") and not Folder(path).exists(".zgroup"):
        raise UserError(f"there is no forecast {path}")
    dataset = xarray.open_zarr(path, consolidated=False, decode_timedelta=False)
    missing = [d for d in ("time", "prediction_timedelta") if d not in dataset.dims]
    if missing:
        raise UserError(f"{path} is no forecast: it has no {missing[0]}")
    if not dataset.attrs.get("finished", True):
        raise UserError(
            f"{path} is not finished: run the same `podgcm forecast` command again"
        )
    if "grid" not in dataset.attrs:
        raise UserError(f"{path} does not say on which grid it is (attribute `grid`)")
    return Forecast(label, path, dataset, parse_points(dataset.attrs["grid"]))


def verify(
    forecasts: Sequence[str],
    truth_path: str,
    output: str,
    grid: str | None = None,
    runner: str = DEFAULT_RUNNER,
    beam_flags: Sequence[str] = (),
) -> Verification:
    """Scores forecasts, and writes `scores.json` and tables.

    The statistics of chunks stay in the folder, so that a killed run goes on, and the
    same forecasts are not scored twice.

    Args:
      forecasts: [LABEL=]PATH each.
      truth_path: store with the truth.
      output: folder, made if missing.
      grid: points to compare at, to which all is regridded conservatively: degrees such
        as 1.5, or a Gaussian grid; default the forecasts' own.
      runner: of Beam.
      beam_flags: for Beam.

    Raises:
      UserError: if forecasts and truth do not fit together.
    """
    options = make_options(runner, beam_flags)
    opened = tuple(open_forecast(argument) for argument in forecasts)
    labels = [f.label for f in opened]
    if len(set(labels)) < len(labels):
        raise UserError("two forecasts have the same label: write LABEL=PATH for each")
    truth = open_store(truth_path)
    points = _common_points(opened, truth, grid)
    variables = _common_variables(opened, truth)
    _check_times(opened, truth)
    levels = _common_levels(opened, truth)
    folder = Folder(output)
    request = {
        "forecasts": [_identity(f) for f in opened],
        "truth": truth.fingerprint,
        "grid": str(points),
    }
    known = folder.read_json(_REQUEST)
    if known is None and folder.names():
        raise UserError(f"{output} exists, and holds no scores: give another --output")
    if known is not None and known != request:
        raise UserError(
            f"{output} holds the scores of other forecasts: give another --output, or "
            "remove it"
        )
    folder.write_json(_REQUEST, request)

    failures.forget(folder)
    climatology = Climatology.of(truth, folder, 0, len(truth.times) - 1)
    pipeline = beam.Pipeline(options=options)
    items = [item for item in climatology.items(truth) if item[0] in variables]
    climatology_chain(pipeline, climatology, truth, items)
    finish_pipeline(pipeline)
    failures.tell(folder)
    for number, forecast in enumerate(opened):
        scorer = ScoreChunk(
            *(forecast.label, folder, truth, climatology, points, forecast.points),
            *(variables, levels),
            baselines=number == 0,
        )
        left = [i for i in range(len(forecast.times)) if _missing(folder, forecast, i)]
        if left:
            pipeline = beam.Pipeline(options=options)
            score_chain(pipeline, forecast, scorer, left)
            finish_pipeline(pipeline)
            failures.tell(folder)
    scores = make_scores(
        _statistics(folder, opened),
        opened[0].times,
        opened[0].leads,
        np.array(levels),
        points.latitude_degrees,
        (*BASELINES, *labels),
        variables,
        dict.fromkeys(BASELINES, 1) | {f.label: f.members for f in opened},
    )
    made = Verification(opened, truth, scores, climatology.describe(truth), points)
    folder.write_json("scores.json", as_json(made))
    tables.write_tables(folder, scores)
    return made


def _chunk_files(forecast: Forecast, time: int) -> list[str]:
    """Of an initial time, in order of leads."""
    return [
        chunk_file(forecast.label, forecast.times[time], int(lead))
        for lead in forecast.leads[::_CHUNK_LEADS]
    ]


def _missing(folder: Folder, forecast: Forecast, time: int) -> bool:
    return not all(folder.exists(name) for name in _chunk_files(forecast, time))


def _statistics(
    folder: Folder, forecasts: Sequence[Forecast]
) -> Iterator[dict[str, np.ndarray]]:
    """All statistics of one initial time after another, [lead, ...].

    Raises:
      UserError: if a chunk is missing.
    """
    for time in range(len(forecasts[0].times)):
        of_time: dict[str, np.ndarray] = {}
        for forecast in forecasts:
            contents = folder.read_many(_chunk_files(forecast, time))
            parts = []
            for name, content in contents.items():
                if content is None:
                    raise UserError(
                        f"{folder}/{name} is missing: run the same command again"
                    )
                with np.load(io.BytesIO(content)) as arrays:
                    parts.append(dict(arrays))
            of_time |= {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        yield of_time


def climatology_chain(
    pipeline: beam.Pipeline,
    climatology: Climatology,
    truth: Store,
    items: Sequence[tuple[str, int]],
) -> beam.PCollection:
    """The pipeline that computes normal fields."""
    return (
        pipeline
        | "Means" >> beam.Create(items, reshuffle=False)
        | beam.Reshuffle()
        | "Compute"
        >> beam.Map(
            lambda item: failures.noted(
                climatology.folder,
                "-".join(map(str, item)),
                lambda: climatology.compute(truth, item),
            )
        )
    )


def score_chain(
    pipeline: beam.Pipeline,
    forecast: Forecast,
    scorer: ScoreChunk,
    times: Sequence[int],
) -> beam.PCollection:
    """The pipeline that scores some initial times of a forecast."""
    wanted = [*scorer.variables]
    if "surface_pressure" in forecast.dataset:
        wanted.append("surface_pressure")
    chunks = {"time": 1, "prediction_timedelta": _CHUNK_LEADS}
    return (
        pipeline
        | xbeam.DatasetToChunks(forecast.dataset[wanted].isel(time=times), chunks)
        | beam.ParDo(scorer)
    )


def _identity(forecast: Forecast) -> dict[str, Any]:
    """What tells a forecast from another at the same place."""
    return {
        "label": forecast.label,
        "path": forecast.path,
        "attributes": {k: str(x) for k, x in sorted(forecast.dataset.attrs.items())},
        "sizes": dict(forecast.dataset.sizes),
        "first": str(forecast.times[0]),
    }


def _common_points(
    forecasts: Sequence[Forecast], truth: Store, grid: str | None
) -> Points:
    if grid is not None:
        return parse_points(grid)
    for forecast in forecasts:
        if forecast.points != truth.grid:
            raise UserError(
                f"forecast {forecast.label} is on {forecast.points}, the truth on "
                f"{truth.grid}: give --grid=1.5, or another grid to compare on"
            )
    return truth.grid


def _check_times(forecasts: Sequence[Forecast], truth: Store) -> None:
    first, *others = forecasts
    for other in others:
        same = np.array_equal(first.times, other.times)
        if not same or not np.array_equal(first.leads, other.leads):
            raise UserError(
                f"forecasts {first.label} and {other.label} differ in their initial "
                "times or leads"
            )
    starts = first.times
    valid = starts[:, None] + first.leads.astype("timedelta64[h]")
    for times, what in ((starts, "persistence"), (valid, f"forecast {first.label}")):
        missing = ~np.isin(times, truth.times)
        if missing.any():
            raise UserError(
                f"the truth {truth.path} has no {times[missing][0]}, which {what} "
                f"needs: it holds {truth.times[0]} to {truth.times[-1]}"
            )


def _common_variables(forecasts: Sequence[Forecast], truth: Store) -> tuple[str, ...]:
    common = tuple(
        name
        for name in truth.variables
        if truth.kind(name) == "levels" and all(name in f.dataset for f in forecasts)
    )
    if not common:
        raise UserError("forecasts and truth have no variable in common")
    for forecast in forecasts:
        for name in common:
            if "prediction_timedelta" not in forecast.dataset[name].dims:
                raise UserError(
                    f"{forecast.path} holds means of {name}, and not every lead: "
                    "forecast without --mean"
                )
    return common


def _common_levels(forecasts: Sequence[Forecast], truth: Store) -> tuple[float, ...]:
    common = [
        float(level)
        for level in truth.levels
        if all(level in f.dataset.level.values for f in forecasts)
    ]
    if not common:
        raise UserError("forecasts and truth have no pressure level in common")
    return tuple(common)


def as_json(made: Verification) -> dict[str, Any]:
    """The content of `scores.json`."""
    return {
        "truth": made.truth.path,
        "source": str(made.truth.attrs.get("source", "")),
        "grid": str(made.points),
        "climatology": made.normal,
        "persistence": "the truth at the initial time",
        "confidence": "95 percent, bootstrap over initial times as if independent",
        **tables.to_json(made.scores),
    }
