"""Descriptions of whole, unfinished and damaged stores, of every byte, and pictures."""

import json
import re
import shutil

import matplotlib.image
import numpy as np
import pytest

from launch.cli import main
from pipeline.errors import UserError
from pipeline.inspect import describe, format_description
from pipeline.layout import shard_name
from pipeline.maps import draw
from pipeline.preprocess import preprocess
from pipeline.store import DamagedStoreError, open_store
from tests.pipeline.test_store import make_plan, write_all

FIRST_TIMES = "1990-01-01/1990-01-02T06"


@pytest.fixture(scope="module")
def arguments(make_dataset, tmp_path_factory):
    """Of `preprocess`, but for the output."""
    source = tmp_path_factory.mktemp("inspect") / "source"
    make_dataset().to_zarr(source, zarr_format=2)
    return {
        "source": str(source),
        "grid": "T21",
        "variables": "temperature,sea_surface_temperature,land_sea_mask",
        "levels": "500,850",
        "shard_steps": 4,
    }


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    path = tmp_path_factory.mktemp("inspect") / "store"
    preprocess(**arguments, output=str(path))
    return path


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def content(path):
    return {f: f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def alter(file, old, new):
    """Replaces text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("deep", [False, True])
def test_whole_store(finished, deep):
    before = content(finished)
    description = describe(finished, deep=deep)
    assert content(finished) == before
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert description["whole"] and not description["faults"]
    assert not description["advice"] and not description["failures"]
    assert description["times"] == 10 and description["step_hours"] == 6
    assert description["first_time"] == "1990-01-01T00:00"
    assert description["readable_until"] == description["last_time"]
    array = description["arrays"]["temperature"]
    assert array["shape"] == [10, 2, 32, 64]
    assert array["shards"] == array["shards_done"] == 3
    assert array["raw_bytes"] == 4 * 10 * 2 * 32 * 64
    files = (finished / "temperature/c").rglob("*")
    assert array["bytes"] == sum(f.stat().st_size for f in files if f.is_file())
    for key in ("bytes", "raw_bytes", "shards", "shards_done"):
        parts = [array[key] for array in description["arrays"].values()]
        assert description[key] == sum(parts)
    statistics = description["variables"]["temperature"]["statistics"]
    assert len(statistics["mean"]) == 2
    names = [check["name"] for check in description["checks"]]
    assert ("statistics" in names and "orientation" in names) == deep
    assert all(check["ok"] for check in description["checks"])
    if deep:
        (values,) = [c for c in description["checks"] if c["name"] == "values"]
        assert values["of"].endswith("10 of 10 times")
    text = format_description(description)
    assert ": whole" in text and "random numbers" in text
    assert description["fingerprint"] in text and "version" in text
    for name in description["variables"]:
        assert name in text


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("temperature/c/2/0/0/0", "shard 2 of temperature is missing"),
        ("_build/done/land_sea_mask/0.json", "shard 0 of land_sea_mask is not done"),
        ("_build/READY", "is not finished"),
        ("_build/plan.json", "plan.json is missing"),
        ("stats/statistics.json", "statistics.json is missing"),
        ("zarr.json", "zarr.json is missing"),
        ("temperature/zarr.json", "temperature/zarr.json is missing"),
        ("time/c/0", "time/c/0 is missing"),
    ],
)
def test_what_is_missing(copy, file, fault):
    (copy / file).unlink()
    description = describe(copy)
    assert not description["whole"] and len(description["advice"]) == 1
    assert len(description["faults"]) == 1 and fault in description["faults"][0]
    text = format_description(description)
    assert "NOT WHOLE" in text and f"do: {description['advice'][0]}" in text


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("temperature/c/1/0/0/0", "shard 1 of temperature has 100 bytes"),
        ("_build/done/temperature/1.json", "shard 1 of temperature is not done"),
        ("_build/READY", "READY is damaged"),
        ("_build/plan.json", "plan.json is damaged"),
        ("stats/statistics.json", "statistics.json is damaged"),
    ],
)
def test_what_is_truncated(copy, file, fault):
    (copy / file).write_bytes((copy / file).read_bytes()[:100])
    for deep in (False, True):
        faults = describe(copy, deep=deep)["faults"]
        assert any(fault in line for line in faults), faults


def test_reports_of_runs_are_no_part_of_the_store(copy):
    (report,) = (copy / "_build/runs").iterdir()
    report.write_text("{")
    assert describe(copy, deep=True)["whole"]


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("_build/READY", '"grid": "T21"', '"grid": "T31"', "was altered"),
        ("_build/plan.json", '"grid": "T21"', '"grid": "T31"', "was altered"),
        ("_build/READY", '"temperature": [', '"temperatur": [', "agree with markers"),
        ("stats/statistics.json", '"std": [', '"std": [NaN,', "is damaged"),
        ("stats/statistics.json", '"config_hash": "', '"config_hash": "0', "another"),
    ],
)
def test_what_is_altered(copy, file, old, new, fault):
    alter(copy / file, old, new)
    faults = describe(copy)["faults"]
    assert len(faults) == 1 and fault in faults[0]


def change_mean(content, name):
    content["variables"][name]["mean"][0] += 1


def change_moments(content, name):
    content["moments"][name]["0"]["mean"][0] += 1


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        ("temperature/zarr.json", None, "metadata: temperature/zarr.json is not what"),
        ("stats/statistics.json", change_mean, "statistics: stats/statistics.json is"),
        (
            "_build/moments/temperature/1.json",
            change_moments,
            "statistics: moments of shard 1 of temperature are not",
        ),
    ],
)
def test_what_only_a_deep_look_finds(copy, file, change, fault):
    if change is None:
        alter(copy / file, '"K"', '"k"')
    else:
        known = json.loads((copy / file).read_text())
        change(known, "temperature")
        (copy / file).write_text(json.dumps(known))
    assert describe(copy)["whole"]
    description = describe(copy, deep=True)
    assert not description["whole"] and len(description["advice"]) == 1
    assert any(fault in line for line in description["faults"])
    assert f"FAULT {fault.split()[0]}" in format_description(description)


def test_advice_mends(arguments, copy):
    """All of it, for a store that has every kind of fault."""
    sound = content(copy)
    shard = copy / "temperature/c/1/0/0/0"
    flipped = bytearray(shard.read_bytes())
    flipped[77] ^= 4
    shard.write_bytes(flipped)
    (copy / "temperature/c/2/0/0/0").unlink()
    (copy / "_build/plan.json").write_text("{}")
    (copy / "_build/moments/land_sea_mask/0.json").write_text("{}")
    alter(copy / "stats/statistics.json", '"std"', '"sdt"')
    (copy / "latitude/c/0").unlink()
    description = describe(copy, deep=True)
    assert "objects: shard 1 of temperature is damaged" in " ".join(
        description["faults"]
    )
    advice = " ".join(description["advice"])
    assert "--repair" in advice
    assert "copy _build/READY to _build/plan.json" in advice
    shutil.copyfile(copy / "_build/READY", copy / "_build/plan.json")
    preprocess(**arguments, output=str(copy), repair=True)
    assert describe(copy, deep=True)["whole"]
    mended = {f: b for f, b in content(copy).items() if "runs" not in f.parts}
    assert mended == {f: b for f, b in sound.items() if "runs" not in f.parts}


@pytest.mark.parametrize("layout", ["variables", "stacked"])
def test_every_flipped_bit_is_found(layout, tmp_path):
    """By a deep look, and by the loader."""
    plan = make_plan(layout=layout)
    random = np.random.default_rng(0)
    fields = {
        "temperature": random.uniform(250, 300, (7, 2, 32, 64)),
        "sea_ice_cover": random.uniform(0, 1, (7, 32, 64)),
        "land_sea_mask": random.uniform(0, 1, (32, 64)),
    }
    write_all(tmp_path, plan, {n: x.astype(np.float32) for n, x in fields.items()})
    assert describe(tmp_path, deep=True)["whole"]
    shards = [tmp_path / shard_name(plan, *item) for item in plan.items()]
    for _ in range(50):
        file = random.choice(shards)
        sound = file.read_bytes()
        flipped = bytearray(sound)
        flipped[random.integers(len(flipped))] ^= 1 << random.integers(8)
        file.write_bytes(flipped)
        assert describe(tmp_path)["whole"]  # Sizes are right.
        array = file.relative_to(tmp_path).parts[0]
        (fault,) = describe(tmp_path, deep=True)["faults"]
        assert f"of {array} is damaged: its bytes are not those written" in fault
        store = open_store(tmp_path)
        with pytest.raises(DamagedStoreError, match=f"of {array} is missing or damag"):
            for name in plan.variables:
                static = plan.kind(name) == "static"
                store.read(name, None if static else np.arange(7))
        file.write_bytes(sound)
    assert describe(tmp_path, deep=True)["whole"]


def test_failed_shards_are_told_with_the_reason(make_dataset, arguments, tmp_path):
    dataset = make_dataset()
    sound = dataset.temperature[5, 1, 3, 4].item()
    dataset.temperature[5, 1, 3, 4] = np.nan
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    changed = arguments | {"source": str(tmp_path / "source")}
    store = tmp_path / "store"
    with pytest.raises(UserError, match="1 of 7 shards failed"):
        preprocess(**changed, output=str(store))
    description = describe(store, deep=True)
    assert description["faults"] == ["shard 1 of temperature is not done"]
    assert not description["ready"] and description["readable_until"] is None
    (failure,) = description["failures"]
    assert failure["array"] == "temperature" and failure["shard"] == 1
    assert failure["times"] == ["1990-01-02T00", "1990-01-02T18"]
    reason = "temperature has NaN at 1990-01-02T06:00, 850 hPa"
    assert reason in failure["error"]
    # What is done can be looked at all the same.
    checks = {check["name"]: check for check in description["checks"]}
    assert "6 of 10 times" in checks["values"]["of"]
    text = format_description(description)
    assert reason in text and "2/3" in text and "no statistics yet" in text
    # Mended, the failure is history.
    dataset.temperature[5, 1, 3, 4] = sound
    dataset.to_zarr(tmp_path / "source", zarr_format=2, mode="w")
    preprocess(**changed, output=str(store))
    assert describe(store)["whole"] and not describe(store)["failures"]


def test_extension_in_progress(arguments, tmp_path):
    store = tmp_path / "store"
    preprocess(**arguments, output=str(store), times=FIRST_TIMES)
    preprocess(**arguments, output=str(store), part="1/4")
    for deep in (False, True):
        description = describe(store, deep=deep)
        assert not description["whole"] and description["ready"]
        assert description["readable_until"] == "1990-01-02T06:00"
        assert description["last_time"] == "1990-01-03T06:00"
        assert "extension from 6 to 10 times" in " ".join(description["faults"])
        assert description["variables"]["temperature"]["statistics"]
        assert len(description["advice"]) == 1
    preprocess(**arguments, output=str(store))
    assert describe(store, deep=True)["whole"]


def test_many_faults_are_counted(arguments, tmp_path):
    preprocess(**arguments | {"shard_steps": 1}, output=str(tmp_path), part="1/21")
    description = describe(tmp_path)
    assert len(description["faults"]) == 20
    shutil.rmtree(tmp_path / "_build/done")
    text = format_description(describe(tmp_path))
    assert text.count("fault: ") == 21 and "fault: and 1 more" in text


@pytest.mark.parametrize("changes", [{"layout": "stacked"}, {"keep_bits": 7}])
def test_other_stores(arguments, tmp_path, changes):
    preprocess(**arguments, **changes, output=str(tmp_path))
    description = describe(tmp_path, deep=True)
    assert description["whole"] and all(c["ok"] for c in description["checks"])
    text = format_description(description)
    if "layout" in changes:
        assert description["arrays"]["fields"]["shape"] == [10, 3, 32, 64]
        assert description["layout"] == "stacked" and "layout   stacked" in text
    else:
        assert "rounded  to 7 bits" in text


def test_not_a_store(tmp_path):
    with pytest.raises(UserError, match="is not a PodGCM store"):
        describe(tmp_path)


# --- what bytes cannot tell -----------------------------------------------------------


@pytest.fixture(scope="module")
def weather():
    """Fields of a plan of the test of stores, that change slowly."""
    random = np.random.default_rng(1)
    pattern = random.normal(size=(2, 32, 64))
    noise = random.normal(size=(7, 2, 32, 64))
    return {
        "temperature": (270 + 8 * pattern + noise).astype(np.float32),
        "sea_ice_cover": random.uniform(0, 1, (7, 32, 64)).astype(np.float32),
        "land_sea_mask": random.uniform(0, 1, (32, 64)).astype(np.float32),
    }


def turn(temperature):
    temperature[4] = temperature[4, :, ::-1]


def heat(temperature):
    temperature[6, 1, 3, 4] = 400


@pytest.mark.parametrize(
    ("spoil", "check", "note"),
    [
        (turn, "orientation", "temperature is upside down .* at 1990-01-02T00:00"),
        (heat, "values", r"temperature is .* to 400 at 1990-01-02T12:00; plausible"),
    ],
)
def test_fields_that_look_wrong_are_noted(weather, tmp_path, spoil, check, note):
    """They are as they were written, so that the store is whole."""
    fields = {name: values.copy() for name, values in weather.items()}
    write_all(tmp_path / "sound", make_plan(), fields)
    assert all(c["ok"] for c in describe(tmp_path / "sound", deep=True)["checks"])
    spoil(fields["temperature"])
    write_all(tmp_path / "spoilt", make_plan(), fields)
    description = describe(tmp_path / "spoilt", deep=True)
    assert description["whole"]
    (found,) = [c for c in description["checks"] if c["name"] == check]
    assert not found["ok"] and re.search(note, found["notes"][0])
    text = format_description(description)
    assert f"LOOK  {check}" in text and found["notes"][0] in text


def test_real_analysis(real_store, tmp_path):
    """On pressure levels and on sigma layers: nothing is held against it."""
    preprocess(real_store.path, str(tmp_path / "sigma"), "TL31", sigma_layers=16)
    for path in (real_store.path, tmp_path / "sigma"):
        description = describe(path, deep=True)
        assert description["whole"] and all(c["ok"] for c in description["checks"])
        assert "specific_cloud_ice_water_content never varies at" in (
            format_description(description)
        )
        picture = tmp_path / "maps.png"
        draw(path, str(picture))
        pixels = matplotlib.image.imread(picture)
        # Eight maps in four rows.
        assert pixels.shape[0] > 1000 and len(np.unique(pixels[..., 0])) > 100


# --- pictures and commands ------------------------------------------------------------


def test_picture_of_an_unfinished_store(arguments, tmp_path):
    store = tmp_path / "store"
    preprocess(**arguments, output=str(store), part="1/4")
    draw(store, str(tmp_path / "some.png"))
    green, red = np.array([76, 159, 112]), np.array([217, 79, 61])
    some = shown(tmp_path / "some.png", green), shown(tmp_path / "some.png", red)
    assert min(some) > 1000
    preprocess(**arguments, output=str(store))
    draw(store, str(tmp_path / "all.png"))
    assert shown(tmp_path / "all.png", red) == 0
    shutil.rmtree(store / "_build/done")
    draw(store, str(tmp_path / "none.png"))
    assert shown(tmp_path / "none.png", green) == 0
    assert shown(tmp_path / "none.png", red) > some[1]


def shown(file, colour):
    """Number of pixels of a colour."""
    pixels = np.round(255 * matplotlib.image.imread(file)[..., :3])
    return int((pixels == colour).all(-1).sum())


def test_picture_of_a_damaged_store(copy, tmp_path):
    for file in (copy / "temperature/c").rglob("0"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    draw(copy, str(tmp_path / "maps.png"))
    assert (tmp_path / "maps.png").stat().st_size > 10_000


def command(*arguments):
    with pytest.raises(SystemExit) as exit:
        main(["inspect", *map(str, arguments)])
    return exit.value.code


def test_command(finished, copy, tmp_path, capsys):
    assert command(finished, "--deep", f"--plot={tmp_path}/maps.png") == 0
    assert "objects: bytes of 7 shards" in capsys.readouterr().out
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    assert command(finished, "--json") == 0
    assert json.loads(capsys.readouterr().out) == describe(finished)
    file = copy / "temperature/c/1/0/0/0"
    file.write_bytes(bytes(file.stat().st_size))
    assert command(copy) == 0
    assert command(copy, "--deep") == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("maps.pdf", "must end in .png"),
        ("nowhere/maps.png", "there is no folder"),
        ("folder.png", "cannot be written"),
        ("copy/maps.png", "is inside the store"),
    ],
)
def test_picture_that_cannot_be_written(copy, tmp_path, capsys, output, message):
    (tmp_path / "folder.png").mkdir()
    assert command(copy, "--deep", f"--plot={tmp_path / output}") == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1
    assert not told.out  # Before any work.


def test_looks_that_are_for_stores(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert command(tmp_path, "--deep") == 2
    assert "are for stores" in capsys.readouterr().err
