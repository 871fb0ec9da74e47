"""Configurations, meshes and run folders: what is refused, and how it is told."""

import dataclasses
import json

import pytest

from pipeline.errors import UserError
from train import build
from train.config import leaves, load_config, to_json
from train.experiment import prepare_workdir
from train.folder import RunFolder
from train.forecast.restore import load_run
from train.mesh import MeshShape, make_mesh, state_shardings


def test_overrides_reach_the_configuration():
    config = load_config(
        "configs/demo.py",
        [
            "train.steps=7",
            "optimizer.learning_rate=1",
            "model.dycore_grid=T42",
            "model.filters=[[60, 2, 0.1], [5, 8, 0]]",
        ],
    )
    assert config.train.steps == 7
    assert config.optimizer.learning_rate == 1.0
    assert config.model.dycore_grid == "T42"
    assert config.model.filters == ((60, 2, 0.1), (5, 8, 0))


def test_expressions_reach_the_configuration_as_they_are():
    """Parentheses within strings are not those of tuples."""
    for text in (
        '[["(encoder|decoder).*kernel$", [null, "data"]]]',
        "(('(encoder|decoder).*kernel$', (None, 'data')),)",
    ):
        config = load_config("configs/demo.py", [f"mesh.parameters={text}"])
        ((pattern, axes),) = config.mesh.parameters
        assert pattern == "(encoder|decoder).*kernel$"
        assert list(axes) == [None, "data"]


@pytest.mark.parametrize(
    "rule",
    ["kernel$", ("(", ("data",)), ("kernel$", ("x",)), ("kernel$", ("lat", "lat"))],
)
def test_rules_that_are_none_are_told(rule):
    mesh = make_mesh(MeshShape())
    with pytest.raises(UserError, match="config.mesh.parameters"):
        state_shardings(mesh, {}, [rule])


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.step=7", "did you mean 'train.steps'"),
        ("optimizr.learning_rate=1", "did you mean 'optimizer.learning_rate'"),
        ("train.steps=many", "expected int"),
        ("train.steps=1.5", "expected int"),
        ("optimizer.learning_rate=true", "expected float"),
        ("model.filters=3", "expected tuple"),
        ("train.steps", "has no value"),
    ],
)
def test_wrong_overrides_are_told(override, message):
    with pytest.raises(UserError, match=message):
        load_config("configs/demo.py", [override])


def test_a_missing_file_is_told():
    with pytest.raises(UserError, match="no configuration file"):
        load_config("configs/nothing.py")


def test_older_run_has_defaults_of_later_options(tmp_path):
    content = to_json(load_config("configs/demo.py", ["train.steps=7"]))
    del content["train"]["skips"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    known = load_config("configs/demo.py", ["train.steps=7"])
    assert dict(leaves(load_config(str(file)))) == dict(leaves(known))
    content["train"]["other"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="unknown configuration key 'train.other'"):
        load_config(str(file))


def test_an_older_run_goes_on(tmp_path, tiny_config):
    folder = RunFolder(str(tmp_path / "run"))
    prepare_workdir(folder, tiny_config, "data")
    file = folder.path / "config.json"
    content = json.loads(file.read_text())
    del content["init_from"], content["train"]["skips"]
    file.write_text(json.dumps(content))
    prepare_workdir(folder, tiny_config, "data")
    assert json.loads(file.read_text())["init_from"] == ""
    assert load_run(str(folder.path)).train.skips == tiny_config.train.skips


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("config.json", "{", "is no configuration"),
        ("config.json", "[1]", "is no configuration"),
        ("config.json", '{"train": {"steps": "many"}}', "is no configuration"),
        ("config.py", "def get_config(:", "cannot be run: SyntaxError"),
        ("config.py", "import nothing_like_it", "cannot be run: ModuleNotFoundError"),
    ],
)
def test_files_that_are_no_configuration_are_told(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(file))


def test_every_experiment_has_the_knobs_of_base():
    known = set(dict(leaves(load_config("configs/base.py"))))
    assert set(dict(leaves(load_config("configs/demo.py")))) == known


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"level": 3}, "mesh.level=3 does not divide model.layers"),
        ({"lat": 5}, "mesh.lat=5 does not divide the latitude pairs of the data"),
        ({"data": 4}, "does not divide the batch size .*: use one of mesh.data=1, 2"),
        ({"data": 2, "ensemble": 2}, "use one of mesh.data=1 with"),
        ({"data": 0}, "at least 1"),
    ],
)
def test_meshes_that_do_not_fit_are_told(tiny_store, tiny_config, changes, message):
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    shape = dataclasses.replace(MeshShape(), **changes)
    with pytest.raises(UserError, match=message):
        shape.check(spec, batch=2)


def test_equal_members_are_told(tiny_store, tiny_config):
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    with pytest.raises(UserError, match="train.members=2 needs model.noise"):
        MeshShape().check(spec, batch=2, members=2)


def test_too_few_devices_are_told():
    with pytest.raises(UserError, match="needs 64 devices"):
        make_mesh(MeshShape(data=64))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("dycore_grid", "T20", "unknown grid"),
        ("step_minutes", 7, "does not divide 6 hours"),
        ("geopotential_interpolation", "cubic", "neither"),
        ("layers", 1, "sigma boundaries"),
    ],
)
def test_wrong_models_are_told(tiny_store, tiny_config, key, value, message):
    tiny_config.model[key] = value
    with pytest.raises(UserError, match=message):
        build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path, tiny_config):
    folder = RunFolder(str(tmp_path / "run"))
    prepare_workdir(folder, tiny_config, "data")
    before = (folder.path / "config.json").read_bytes()
    prepare_workdir(folder, tiny_config, "data")
    with pytest.raises(UserError, match="data_fingerprint"):
        prepare_workdir(folder, tiny_config, "other data")
    tiny_config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match="optimizer.learning_rate is 0.001 there"):
        prepare_workdir(folder, tiny_config, "data")
    assert (folder.path / "config.json").read_bytes() == before


def test_mesh_and_logging_may_change_between_runs(tmp_path, tiny_config):
    folder = RunFolder(str(tmp_path / "run"))
    prepare_workdir(folder, tiny_config, "data")
    tiny_config.mesh.data = 2
    tiny_config.train.checkpoint_every = 1
    prepare_workdir(folder, tiny_config, "data")
    stored = json.loads((folder.path / "config.json").read_text())
    assert stored == {**to_json(tiny_config), "data_fingerprint": "data"}


def test_a_folder_with_other_things_is_refused(tmp_path, tiny_config):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        prepare_workdir(RunFolder(str(tmp_path)), tiny_config, "data")
