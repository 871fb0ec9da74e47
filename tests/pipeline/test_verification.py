"""Scores against an independent package, and verification from store to file."""

import json

import numpy as np
import pytest
import xarray

from launch.report.evaluate import evaluate
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from pipeline.regrid import Regridder
from pipeline.store import open_store
from pipeline.verification import metrics
from pipeline.verification.points import LatLonGrid, parse_points, region_weights
from pipeline.verification.run import verify
from pipeline.verification.scores import _drawn_means
from pipeline.verification.tables import to_json

GRID = parse_grid("TL31")
DIMENSIONS = ("lead", "level", "latitude", "longitude")


def fields(seed, members=None):
    shape = (3, 2, *GRID.shape)
    if members:
        shape = (members, *shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labelled(x):
    dims = DIMENSIONS if x.ndim == 4 else ("number", *DIMENSIONS)
    coords = {"latitude": GRID.latitude_degrees, "longitude": GRID.longitude_degrees}
    return xarray.DataArray(x.astype(np.float64), dims=dims, coords=coords)


def area(region):
    """Weights of a region, of mean 1 over all points, as the judge wants them."""
    weights = region_weights(GRID)[region]
    weights = xarray.DataArray(weights, dims="latitude").assign_coords(
        latitude=GRID.latitude_degrees
    )
    return weights


def agree(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("region", range(4))
def test_errors_are_those_of_a_judge(region):
    judge = pytest.importorskip("scores", reason="needs the extra `judges`")
    forecast, truth, weights = fields(0), fields(1), region_weights(GRID)
    ours = metrics.errors(forecast, truth, weights)
    pair = labelled(forecast), labelled(truth)
    options = dict(
        preserve_dims=["lead", "level"],
        weights=area(region) / area(region).mean(),
    )
    agree(ours["mse"][..., region], judge.continuous.mse(*pair, **options))
    agree(ours["mae"][..., region], judge.continuous.mae(*pair, **options))
    agree(ours["bias"][..., region], judge.continuous.additive_bias(*pair, **options))


def test_members_are_those_of_a_judge():
    judge = pytest.importorskip("scores", reason="needs the extra `judges`")
    members, truth, weights = fields(0, members=5), fields(1), region_weights(GRID)
    ours = metrics.ensemble(members, truth, weights)
    theirs = judge.probability.crps_for_ensemble(
        *(labelled(members), labelled(truth), "number"),
        method="fair",
        preserve_dims=["lead", "level"],
        weights=area(0) / area(0).mean(),
    )
    agree(ours["crps"][..., 0], theirs)
    variance = labelled(members).var("number", ddof=1)
    agree(ours["spread"][..., 0], variance.weighted(area(0)).mean(DIMENSIONS[2:]))
    ranks = metrics.rank_histogram(members, truth, weights)
    agree(ranks.sum(axis=-1), 1)
    below = (labelled(members) < labelled(truth)).sum("number")
    for rank in range(6):
        expected = (below == rank).weighted(area(2)).mean(DIMENSIONS[2:])
        agree(ranks[..., 2, rank], expected)


def test_anomaly_correlation_on_a_real_analysis(real_store):
    """By its formula, with xarray."""
    weights, grid = region_weights(real_store.grid), real_store.grid
    truth = real_store.read("temperature", np.zeros(3, int))
    rng = np.random.default_rng(2)
    normal = truth + rng.standard_normal(truth.shape).astype(np.float32) * 4
    forecast = truth + rng.standard_normal(truth.shape).astype(np.float32)
    ours = metrics.anomalies(forecast, truth, normal, weights)["acc"]
    errors = metrics.errors(forecast, truth, weights)
    x, y, c = (
        xarray.DataArray(f.astype(np.float64), dims=DIMENSIONS)
        for f in (forecast, truth, normal)
    )
    w = xarray.DataArray(grid.latitude_weights, dims="latitude")
    latitude = xarray.DataArray(grid.latitude_degrees, dims="latitude")
    for region, inside in enumerate(
        [latitude > -99, abs(latitude) <= 20, latitude >= 20, latitude <= -20]
    ):

        def mean(z, inside=inside):
            return z.weighted(w * inside).mean(DIMENSIONS[2:])

        product = mean((x - c) * (y - c))
        expected = product / np.sqrt(mean((x - c) ** 2) * mean((y - c) ** 2))
        agree(ours[..., region], expected)
        agree(errors["mse"][..., region], mean((x - y) ** 2))


def test_power_spectrum():
    """All power, and that of one wave at its place."""
    latitude = np.deg2rad(GRID.latitude_degrees)[:, None]
    longitude = np.deg2rad(GRID.longitude_degrees)
    wave = np.cos(latitude) ** 3 * np.cos(3 * longitude)  # m = l = 3
    power = metrics.power_spectrum(wave, GRID)
    mean_square = metrics.region_mean(wave**2, region_weights(GRID))[0]
    agree(power[3], mean_square)
    agree(np.delete(power, 3), 0)
    constant = metrics.power_spectrum(np.full(GRID.shape, 2.0), GRID)
    agree(constant[0], 4)
    agree(constant[1:], 0)


def test_budgets_of_an_isothermal_atmosphere():
    grid = parse_grid("TL31")
    levels = np.linspace(100.0, 1000.0, 91)
    shape = (1, len(levels), *grid.shape)
    height = np.broadcast_to(np.log(1000 / levels)[:, None, None], shape)
    gas, temperature = 287.0, 250.0
    found = metrics.budgets(
        *(np.full(shape, x) for x in (temperature, 3.0, 4.0)),
        gas * temperature * height,
        np.full(shape, 0.01),
        levels,
        region_weights(grid),
    )
    mass = 90_000 / 9.80616
    assert found["water"] == pytest.approx(0.01 * mass)
    # The integral of R T ln(p0 / p) between p1 and p0 is R T (p0 - p1 - p1 ln(p0/p1)).
    potential = gas * temperature * (9e4 - 1e4 * np.log(10)) / 9.80616
    others = mass * (717.0 * temperature + 12.5 + 2.501e6 * 0.01)
    assert found["energy"] == pytest.approx(others + potential, rel=1e-4)


def test_points():
    grid = parse_points("1.5")
    assert grid.shape == (121, 240) and grid.latitude_weights.sum() == pytest.approx(2)
    agree(region_weights(grid).sum(axis=-1) * grid.longitudes, 1)
    field = fields(3)[0]
    regridded = Regridder(GRID.latitude_degrees, GRID.longitude_degrees, grid)(field)
    cells = np.diff(np.sin(np.deg2rad(regridder_edges(GRID))))
    before = (field.mean(-1) * cells).sum(-1) / 2
    agree(metrics.region_mean(regridded, region_weights(grid))[:, 0], before)
    for wrong in ("1.7", "0", "TL", "31"):
        with pytest.raises(UserError, match=f"--grid={wrong}"):
            parse_points(wrong)
    assert LatLonGrid(5.625).shape == (33, 64)


def regridder_edges(grid):
    from model.sphere.grids import latitude_edges

    return latitude_edges(grid.latitude_degrees)


def write_forecast(path, store, starts, leads, change, members=None, **attributes):
    """A forecast: the truth at the initial time, changed."""
    coordinates = {
        "time": store.times[starts],
        "prediction_timedelta": ("prediction_timedelta", leads, {"units": "hours"}),
        "level": store.levels,
        "latitude": store.grid.latitude_degrees,
        "longitude": store.grid.longitude_degrees,
    }
    dims = ["time", "prediction_timedelta", "level", "latitude", "longitude"]
    variables = {}
    for name in ("temperature", "geopotential"):
        now = store.read(name, starts)[:, None]
        x = np.repeat(now, len(leads), axis=1)
        if members:
            noise = np.random.default_rng(0).standard_normal((len(starts), members))
            x = x[:, None] + noise[:, :, None, None, None, None].astype(np.float32)
        variables[name] = (dims[:1] + ["number"] * bool(members) + dims[1:], change(x))
    attributes = {"grid": str(store.grid), **attributes}
    dataset = xarray.Dataset(variables, coordinates, attributes)
    dataset.to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


STARTS, LEADS = np.array([2, 4, 5, 7]), np.array([0, 6, 12, 18, 24])


def test_from_stores_to_files(tiny_store, tmp_path):
    when = tiny_store, STARTS, LEADS
    same = write_forecast(tmp_path / "same.zarr", *when, lambda x: x)
    off = write_forecast(tmp_path / "off.zarr", *when, lambda x: x + 1)
    many = write_forecast(tmp_path / "many.zarr", *when, lambda x: x, members=3)
    forecasts = [f"same={same}", f"off={off}", f"many={many}"]
    output, report = tmp_path / "scores", tmp_path / "report.html"
    scores, table = evaluate(
        forecasts,
        *(tiny_store.path, str(output)),
        report=str(report),
        dates=["2001-01-02"],
    )
    assert scores == json.loads((output / "scores.json").read_text())
    ours = scores["scores"]
    assert ours["same"] == ours["persistence"]
    rmse = np.array(ours["same"]["temperature"]["rmse"])
    assert np.all(rmse[0] == 0) and np.all(rmse[1:, 3:] > 0)
    bias = {x: np.array(ours[x]["temperature"]["bias"]) for x in ("same", "off")}
    np.testing.assert_allclose(bias["off"], bias["same"] + 1, atol=1e-4)
    assert "spread_skill" in ours["many"]["temperature"]
    assert scores["members"]["many"] == 3
    assert "of less than a year: no climate" in scores["climatology"]
    # Climatology is the mean of all times of that hour.
    index = STARTS + 4  # 24 h later; a step is 6 h
    normal = np.stack(
        [tiny_store.read("temperature", np.arange(i % 4, 16, 4)).mean(0) for i in index]
    )
    truth = tiny_store.read("temperature", index)
    weights = region_weights(tiny_store.grid)
    expected = np.sqrt(metrics.errors(normal, truth, weights)["mse"].mean(0))
    theirs = ours["climatology"]["temperature"]["rmse"][4]
    np.testing.assert_allclose(theirs, expected[:, 0], rtol=1e-5)
    assert {file.name for file in output.glob("*.png")} >= {
        *("scorecard.png", "rmse.png", "acc.png", "maps.png", "spectra.png"),
        *("ensemble.png", "zonal.png", "profiles.png", "bias.png"),
    }
    page = report.read_text()
    assert page.count("data:image/png;base64,") >= 8
    # With the colon, for pictures may have the letters by chance.
    assert "http:" not in page and "https:" not in page
    lines = (output / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("label,variable,level_hpa") and len(lines) > 5000
    for name in ("zonal", "spectra", "ranks", "differences"):
        table = (output / f"{name}.csv").read_text().splitlines()
        assert table[0].startswith("label,") and len(table) > 10, name
    # The same again scores nothing again; others there are refused.
    chunks = {file: file.stat().st_mtime_ns for file in output.rglob("*.npz")}
    evaluate(forecasts, tiny_store.path, str(output), baseline="climatology")
    assert chunks == {file: file.stat().st_mtime_ns for file in output.rglob("*.npz")}
    assert "percent_of_climatology" in (output / "differences.csv").read_text()[:200]
    with pytest.raises(UserError, match="holds the scores of other forecasts"):
        evaluate([f"same={same}"], tiny_store.path, str(output))


def test_on_a_common_grid(tiny_store, tmp_path):
    """Area means survive; the truth may be on another grid."""
    forecast = write_forecast(
        tmp_path / "f.zarr", tiny_store, STARTS[:1], LEADS, lambda x: x
    )
    made = verify([forecast], tiny_store.path, str(tmp_path / "x"), grid="5")
    own = verify([forecast], tiny_store.path, str(tmp_path / "y"))
    assert str(made.points) == "5 degrees"
    ours = made.scores.values["f"]["temperature"]
    theirs = own.scores.values["f"]["temperature"]
    ours, theirs = (x["rmse"][2:, :, 0] for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0.1)
    assert made.scores.low["f"] and "rmse" not in made.scores.low["f"]["temperature"]


def test_kills_leave_what_is_done(tiny_store, tmp_path, monkeypatch):
    """A chunk that is there is not computed again."""
    from pipeline.verification.chunks import ScoreChunk

    forecast = write_forecast(
        tmp_path / "f.zarr", tiny_store, STARTS, LEADS, lambda x: x
    )
    computed = []
    original = ScoreChunk.statistics

    def statistics(self, chunk):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(str(chunk.time.values[0]))
        return original(self, chunk)

    monkeypatch.setattr(ScoreChunk, "statistics", statistics)
    output = str(tmp_path / "x")
    with pytest.raises(BaseException):  # noqa: B017, whatever the runner makes of it
        verify([forecast], tiny_store.path, output)
    computed[:] = ["", ""]
    monkeypatch.setattr(
        ScoreChunk, "statistics", lambda s, c: computed.append("") or original(s, c)
    )
    made = verify([forecast], tiny_store.path, output)
    chunks = len(STARTS) * 2  # of four leads and of one
    assert len(computed) - 2 == chunks - 3
    monkeypatch.undo()
    again = verify([forecast], tiny_store.path, str(tmp_path / "y"))
    assert to_json(made.scores) == to_json(again.scores)


def test_forecasts_that_blow_up_do_not_count(tiny_store, tmp_path, capsys):
    """Where they do, and only there; differences are of what both have."""

    def blows_up(x):
        broken = x.copy()
        broken[-1, 3:] = np.nan  # the last initial time, from the fourth lead on
        return broken

    when = tiny_store, STARTS, LEADS
    good = write_forecast(tmp_path / "good.zarr", *when, lambda x: x + 1)
    bad = write_forecast(tmp_path / "bad.zarr", *when, blows_up)
    few = write_forecast(
        tmp_path / "few.zarr", tiny_store, STARTS[:-1], LEADS, lambda x: x
    )
    evaluate([good, bad], tiny_store.path, str(tmp_path / "x"))
    assert (
        f"bad: of {len(STARTS)} initial times 1 do not stay finite, the first after "
        f"{LEADS[3]} h" in capsys.readouterr().err
    )
    made = verify([good, bad], tiny_store.path, str(tmp_path / "x"))
    without = verify([few], tiny_store.path, str(tmp_path / "y"))
    assert made.scores.counts["bad"].tolist() == [
        len(STARTS) - (i >= 3) for i in range(len(LEADS))
    ]
    assert made.scores.counts["good"].min() == len(STARTS)
    ours, theirs = (
        x.scores.values[name]["temperature"]
        for x, name in ((made, "bad"), (without, "few"))
    )
    np.testing.assert_allclose(ours["rmse"][3:], theirs["rmse"][3:], rtol=1e-6)
    scores = made.scores.samples
    pairs = [scores[x]["temperature"][:-1, 4] for x in ("bad", "good")]
    expected = np.sqrt(pairs[0].mean(0) / pairs[1].mean(0)) - 1
    relative = made.scores.difference("bad", "good", "temperature").relative[4]
    np.testing.assert_allclose(relative, expected, atol=1e-6)


def test_bootstrap():
    x = np.random.default_rng(0).standard_normal((400, 2)) + 5
    means = _drawn_means(x)
    assert np.array_equal(means, _drawn_means(x))
    np.testing.assert_allclose(means.std(0), x.std(0) / 20, rtol=0.1)
    np.testing.assert_allclose(means.mean(0), x.mean(0), atol=0.01)


def test_what_does_not_fit(tiny_store, tmp_path, real_store):
    options = tiny_store, STARTS, LEADS, lambda x: x
    good = write_forecast(tmp_path / "good.zarr", *options)
    half = write_forecast(tmp_path / "half.zarr", *options, finished=False)
    late = write_forecast(
        *(tmp_path / "late.zarr", tiny_store, np.array([14]), LEADS, lambda x: x)
    )
    other = write_forecast(
        *(tmp_path / "other.zarr", tiny_store, STARTS, LEADS[:2], lambda x: x)
    )
    truth = tiny_store.path
    for forecasts, store, message in [
        ([half], truth, "is not finished: run the same `podgcm forecast`"),
        ([late], truth, "has no 2001-01-05"),
        ([good, other], truth, "differ in their initial times or leads"),
        ([good, f"good={other}"], truth, "have the same label"),
        ([f"truth={good}"], truth, "cannot be a label"),
        ([good], real_store.path, "give --grid=1.5"),
        (["nowhere.zarr"], truth, "there is no forecast nowhere.zarr"),
    ]:
        with pytest.raises(UserError, match=message):
            verify(forecasts, store, str(tmp_path / "x"))
        assert not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/y").write_text("")
    with pytest.raises(UserError, match="holds no scores"):
        verify([good], truth, str(tmp_path / "x"))
    with pytest.raises(UserError, match="--baseline=z: there are persistence"):
        evaluate([good], truth, str(tmp_path / "z"), baseline="z")
    for dates, message in ((["soon"], "is no time"), (["2001-03-01"], "no initial")):
        with pytest.raises(UserError, match=message):
            evaluate([good], truth, str(tmp_path / "z"), dates=dates)
    assert not (tmp_path / "z").exists()


@pytest.mark.drill
def test_dask_makes_the_same(tiny_store, tmp_path):
    pytest.importorskip("distributed")
    forecast = write_forecast(
        tmp_path / "f.zarr", tiny_store, STARTS, LEADS, lambda x: x
    )
    made = verify([forecast], tiny_store.path, str(tmp_path / "x"), runner="DaskRunner")
    here = verify([forecast], tiny_store.path, str(tmp_path / "y"))
    assert to_json(made.scores) == to_json(here.scores)
    assert open_store(tiny_store.path).fingerprint == tiny_store.fingerprint
