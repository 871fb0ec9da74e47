"""The command line as its users meet it: help, mistakes, results."""

import json
import pathlib
import pickle
import re
import shutil

import numpy as np
import pytest
import xarray

from launch import cli
from launch.published.checkpoint import read_pickle
from train.config import to_json


def run(*argv):
    """Exit code of `podgcm ARGV`."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in argv])
    return ended.value.code


@pytest.fixture
def told(capsys):
    """Runs a command that must fail with exactly one line, and returns the line."""

    def check(*argv):
        capsys.readouterr()
        assert run(*argv) == 2
        lines = [x for x in capsys.readouterr().err.splitlines() if "podgcm " in x]
        assert len(lines) == 1 and lines[0].startswith(f"podgcm {argv[0]}: ")
        return lines[0]

    return check


@pytest.fixture
def config_file(tmp_path, tiny_config):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(tiny_config)))
    return file


def snapshot(folder):
    return {
        str(file): file.read_bytes()
        for file in sorted(pathlib.Path(folder).rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("command", [[], *([c] for c in cli.COMMANDS)])
def test_help(command, capsys):
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert "usage: podgcm" in out
    assert not command or cli.COMMANDS[command[0]][0] in out


def test_usage_errors_exit_with_2():
    assert run("fly") == 2
    assert run("sample") == 2
    assert run("inspect", "x", "--config.train.steps=1") == 2


def test_sample_does_not_overwrite(planet, told):
    before = sorted(pathlib.Path(planet).rglob("*"))
    assert "exists" in told("sample", planet)
    assert sorted(pathlib.Path(planet).rglob("*")) == before


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.drop_vars("temperature"), "temperature"),
        (lambda d: d.assign(temperature=d.temperature.assign_attrs(units="degC")), "K"),
        (lambda d: d.isel(longitude=slice(0, 20)), "longitude"),
    ],
)
def test_bad_sources_are_told_and_leave_nothing(
    planet, tmp_path, told, change, message
):
    bad, output = tmp_path / "bad.zarr", tmp_path / "store"
    data = change(xarray.open_zarr(planet).isel(time=slice(0, 2)).load())
    for variable in data.variables.values():
        variable.encoding.clear()
    data.to_zarr(bad)
    line = told("preprocess", f"--source={bad}", f"--output={output}", "--grid=T21")
    assert message in line
    assert not output.exists()


def test_unknown_grid_is_told(planet, tmp_path, told):
    output = tmp_path / "store"
    line = told("preprocess", f"--source={planet}", f"--output={output}", "--grid=T20")
    assert "unknown grid 'T20'" in line and "TL63" in line


def test_inspect_tells_whole_from_truncated(
    tiny_store, tmp_path, capsys, told, config_file
):
    assert run("inspect", tiny_store.path) == 0
    assert "temperature" in capsys.readouterr().out
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_store.path, damaged)
    shard = next(
        f
        for f in (damaged / "temperature").rglob("*")
        if f.is_file() and f.suffix == ""
    )
    shard.write_bytes(shard.read_bytes()[:1000])
    assert run("inspect", damaged) == 1
    line = told(
        "train",
        f"--config={config_file}",
        f"--config.data.store={damaged}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "temperature" in line and "inspect" in line
    assert not (tmp_path / "run").exists()


def test_unknown_key_is_told(config_file, tmp_path, told):
    line = told(
        "train",
        f"--config={config_file}",
        "--config.optimizer.learning_rat=1",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "did you mean 'optimizer.learning_rate'" in line


@pytest.mark.drill
def test_from_training_to_scores(config_file, tiny_store, tmp_path, told, capsys):
    workdir, scores = tmp_path / "run", tmp_path / "scores"
    train = ["train", f"--config={config_file}", f"--workdir={workdir}"]
    assert run(*train, "--config.train.steps=2", "--config.model.step_minutes=360") == 0
    before = snapshot(workdir)
    assert "belongs to another run" in told(*train, "--config.optimizer.b1=0.5")
    assert snapshot(workdir) == before
    assert run("inspect", workdir, "--json") == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"] == [2]

    for physics in ("learned", "none", "oracle"):
        assert (
            run(
                "forecast",
                f"--workdir={workdir}",
                "--init=2001-01-03/2001-01-03T12/12h",
                "--lead=12",
                f"--physics={physics}",
                f"--output={tmp_path / physics}.zarr",
            )
            == 0
        )
    forecast = xarray.open_zarr(tmp_path / "none.zarr", decode_timedelta=False)
    assert dict(forecast.temperature.sizes) == dict(
        time=2, prediction_timedelta=3, level=8, latitude=16, longitude=32
    )
    assert np.isfinite(forecast.temperature.values).all()

    evaluate = [
        "evaluate",
        f"--truth={tiny_store.path}",
        f"--forecast=silenced={tmp_path}/none.zarr",
        f"--forecast=trained={tmp_path}/learned.zarr",
    ]
    capsys.readouterr()
    assert run(*evaluate, f"--output={scores}") == 0
    assert "T850" in capsys.readouterr().out
    written = json.loads((scores / "scores.json").read_text())
    # The scores are what anyone computes from the files.
    index = np.searchsorted(tiny_store.times, forecast.time.values) + 2
    truth = tiny_store.read("temperature", index)
    error = forecast.temperature.values[:, 2] - truth
    weights = tiny_store.grid.latitude_weights[:, None] / 2
    expected = np.sqrt((error**2 * weights).sum(-2).mean(-1).mean(0))
    ours = written["scores"]["silenced"]["temperature"]["rmse"][2]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    persistence = written["scores"]["persistence"]["temperature"]["rmse"]
    assert np.all(np.array(persistence[0]) == 0) and persistence[2][4] > 0
    assert {f.name for f in scores.glob("*.png")} >= {
        "rmse.png",
        "profiles.png",
        "maps.png",
    }

    assert "no forecast" in told("evaluate", "--truth=x", "--forecast=y", "--output=z")
    init = ["forecast", f"--workdir={workdir}", f"--output={tmp_path / 'x'}"]
    assert "has no" in told(*init, "--init=1999-01-01")
    assert "write TIME" in told(*init, "--init=soon")
    assert "multiple of --every=6" in told(*init, "--init=2001-01-03", "--lead=7")
    assert "holds no run" in told(
        "forecast", "--workdir=/nowhere", "--init=2001-01-03", "--output=x"
    )


def test_published_weights_become_a_run(tmp_path, toy, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = "mini"  # no whole path, as people write it
    command = ["import-neuralgcm", toy]
    command.append(f"--output={output}")
    assert run(*command) == 0
    assert "191,174 parameters in 111 arrays" in capsys.readouterr().out
    assert "exists" in told(*command)
    assert run("inspect", output) == 0
    assert "imported     from" in capsys.readouterr().out
    init = ["forecast", f"--workdir={output}", f"--output={tmp_path / 'x'}"]
    assert "give --store" in told(*init, "--init=2001-01-03")

    other = tmp_path / "other"
    program = tmp_path / "program.pkl"
    program.write_bytes(f"cposix\nsystem\n(S'touch {other}'\ntR.".encode())
    line = told("import-neuralgcm", program, f"--output={tmp_path / 'y'}")
    assert "posix.system" in line and "nothing of it was run" in line
    assert not other.exists() and not (tmp_path / "y").exists()
    assert "then copy the folder" in told(*command[:2], "--output=gs://bucket/x")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("StochasticPhysicsParameterizationStep.num_substeps", "7", "num_substeps"),
        ("StochasticPhysicsParameterizationStep.num_substeps", "'x'", "num_substeps"),
        ("DycoreWithPhysicsCorrector.dycore_substeps", "0", "cannot be used"),
        ("DycoreWithPhysicsCorrector.dycore_substeps", "%LOOP", "cannot be used"),
        ("EpdTower.latent_size", "'x'", "cannot be used"),
        ("EpdTower.latent_size", "-" * 100_000 + "1", "no value that is known"),
        ("EpdTower.latent_size", "32\nOther.option = 1", "Other.option"),
    ],
)
def test_published_configurations_that_cannot_be_are_told(
    tmp_path, toy, told, name, value, message
):
    content = read_pickle(toy)
    text, count = re.subn(
        rf"(?m)^{re.escape(name)} = .*$",
        lambda _: f"{name} = {value}",
        content["model_config_str"],
    )
    assert count == 1
    content["model_config_str"] = f"LOOP = %LOOP\n{text}"
    file = tmp_path / "changed.pkl"
    file.write_bytes(pickle.dumps(content))
    assert message in told("import-neuralgcm", file, f"--output={tmp_path / 'x'}")
    assert not list(tmp_path.glob("x*"))
