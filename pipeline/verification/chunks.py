"""The unit of work of verification: a few leads of one initial time of one forecast.

Whoever gets it reads the truth and the climatology of the same times, computes all
statistics, and leaves them in one small file, so that nothing passes between workers
and a killed run goes on.
"""

import dataclasses
import io

import apache_beam as beam
import numpy as np
import xarray
import xarray_beam as xbeam

from model.sphere.grids import GaussianGrid
from pipeline.files import Folder
from pipeline.regrid import Regridder
from pipeline.store import Store
from pipeline.verification import failures, metrics
from pipeline.verification.climatology import Climatology
from pipeline.verification.points import Points, region_weights

PERSISTENCE, CLIMATOLOGY, TRUTH = "persistence", "climatology", "truth"
BASELINES = (PERSISTENCE, CLIMATOLOGY)
_BUDGET = (
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "geopotential",
    "specific_humidity",
)


def chunk_file(label: str, time: np.datetime64, lead: int) -> str:
    """Name of the statistics of an initial time from a lead (hours) on."""
    return f"statistics/{label}/{np.datetime_as_string(time, 'h')}+{lead}.npz"


@dataclasses.dataclass
class ScoreChunk(beam.DoFn):
    """Statistics of chunks, and of the baselines at the same times if they are wanted.

    Attributes:
      label: of the forecast.
      folder: of the results.
      truth: what it is compared with.
      climatology: of it.
      points: where both are compared.
      own: points of the forecast.
      variables: that both have.
      levels: hPa, that both have.
      baselines: whether persistence and climatology are scored too.
    """

    label: str
    folder: Folder
    truth: Store
    climatology: Climatology
    points: Points
    own: Points
    variables: tuple[str, ...]
    levels: tuple[float, ...]
    baselines: bool

    def setup(self) -> None:
        self._weights = region_weights(self.points)
        self._regridders: dict[Points, Regridder] = {}

    def process(self, element: tuple[xbeam.Key, xarray.Dataset]):
        _, chunk = element
        lead = int(chunk.prediction_timedelta.values[0])
        file = chunk_file(self.label, chunk.time.values[0], lead)

        def make() -> None:
            content = io.BytesIO()
            np.savez(content, **self.statistics(chunk))
            self.folder.write(file, content.getvalue())

        if not self.folder.exists(file):
            failures.noted(self.folder, file.replace("/", "-"), make)
        yield file

    def statistics(self, chunk: xarray.Dataset) -> dict[str, np.ndarray]:
        """Of one initial time; by `LABEL/VARIABLE/STATISTIC`, [lead, level, ...]."""
        (start,) = chunk.time.values
        leads = chunk.prediction_timedelta.values.astype("timedelta64[h]")
        valid = start + leads
        index, first = (np.searchsorted(self.truth.times, t) for t in (valid, start))
        found: dict[str, np.ndarray] = {}
        columns: dict[str, dict[str, np.ndarray]] = {}
        for name in self.variables:
            truth = self._of_truth(self.truth.read(name, index))
            normal = self._of_truth(self.climatology.read(self.truth, name, valid))
            forecast = self._of_forecast(chunk[name])
            forecasts = {self.label: forecast}
            if self.baselines:
                now = self._of_truth(self.truth.read(name, np.array([first])))
                forecasts |= {
                    PERSISTENCE: np.broadcast_to(now, truth.shape),
                    CLIMATOLOGY: normal,
                }
                found |= self._looks(TRUTH, name, truth)
                columns.setdefault(TRUTH, {})[name] = truth
            for label, x in forecasts.items():
                scores = self._scores(x, truth, normal)
                found |= {f"{label}/{name}/{key}": y for key, y in scores.items()}
            one = forecast if forecast.ndim == 4 else forecast[0]
            found |= self._looks(self.label, name, one)
            columns.setdefault(self.label, {})[name] = one
        for label, fields in columns.items():
            if set(_BUDGET) <= set(fields):
                parts = [fields[part] for part in _BUDGET]
                budget = metrics.budgets(*parts, self.levels, self._weights)
                found |= {f"{label}/budget/{key}": x for key, x in budget.items()}
        if "surface_pressure" in chunk:
            pressure = self._of_forecast(chunk["surface_pressure"])
            pressure = pressure[0] if "number" in chunk.dims else pressure
            mass = metrics.region_mean(pressure, self._weights)[..., 0]
            found[f"{self.label}/budget/surface_pressure"] = mass
        return found

    def _scores(
        self, x: np.ndarray, truth: np.ndarray, normal: np.ndarray
    ) -> metrics.Statistics:
        if x.ndim == 5:
            ranks = metrics.rank_histogram(x, truth, self._weights)
            scores = metrics.ensemble(x, truth, self._weights) | {"ranks": ranks}
            x = x.mean(axis=0)
        else:
            scores = metrics.errors(x, truth, self._weights)
        return scores | metrics.anomalies(x, truth, normal, self._weights)

    def _looks(self, label: str, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
        """What a field is like, beside how right it is."""
        looks = {f"{label}/{name}/zonal": x.mean(axis=-1, dtype=np.float64)}
        if isinstance(self.points, GaussianGrid):
            looks[f"{label}/{name}/spectrum"] = metrics.power_spectrum(x, self.points)
        return looks

    def _of_truth(self, fields: np.ndarray) -> np.ndarray:
        known = list(self.truth.levels)
        levels = [known.index(level) for level in self.levels]
        return self._on_points(fields[:, levels], self.truth.grid)

    def _of_forecast(self, array: xarray.DataArray) -> np.ndarray:
        """[(member,) lead, (level,) latitude, longitude], from south to north."""
        array = array.isel(time=0)
        if "level" in array.dims:
            array = array.sel(level=list(self.levels))
        order = ("number", "prediction_timedelta", "level", "latitude", "longitude")
        array = array.transpose(*(d for d in order if d in array.dims))
        return self._on_points(array.sortby("latitude").values, self.own)

    def _on_points(self, fields: np.ndarray, points: Points) -> np.ndarray:
        if points == self.points:
            return fields
        if points not in self._regridders:
            self._regridders[points] = Regridder(
                points.latitude_degrees, points.longitude_degrees, self.points
            )
        return self._regridders[points](fields)
