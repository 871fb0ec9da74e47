"""From and to an object store: latency, failing requests, kills, counted requests."""

import os
import signal
import subprocess
import sys
import time

import pytest

from launch.object_store import ObjectStore
from pipeline.preprocess import preprocess
from tests.pipeline.test_preprocess import options

pytestmark = pytest.mark.drill

COMPARE = """
import sys
from pipeline.files import Folder
local, killed, fresh = map(Folder, sys.argv[1:])
names = [name for name in fresh.names() if not name.startswith("_build/runs")]
assert names == [n for n in killed.names() if not n.startswith("_build/runs")]
for name in names:
    assert fresh.read(name) == killed.read(name), name
arrays = [name for name in local.names() if "/c/" in name]
assert arrays == [name for name in names if "/c/" in name]
for name in arrays:
    assert local.read(name) == fresh.read(name), name
"""


@pytest.fixture(scope="module")
def source(make_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("bucket") / "source.zarr"
    make_dataset().to_zarr(path, zarr_format=2)
    return path


def command(output, layout):
    flags = options("gs://bucket/source.zarr", output, layout=layout)
    return [
        *(sys.executable, "-m", "launch.cli", "preprocess"),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def run(store, arguments):
    """What a process prints whose gs:// is the store; its failure is an error."""
    done = subprocess.run(
        arguments,
        env=os.environ | store.environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "layout", ["variables", pytest.param("stacked", marks=pytest.mark.slow)]
)
def test_from_and_to_an_object_store(source, tmp_path, layout):
    """Some requests fail, and a run is killed: the bytes are those of a local store."""
    preprocess(**options(source, tmp_path / "local", layout=layout))
    addresses = [str(tmp_path / "local"), "gs://bucket/killed", "gs://bucket/fresh"]
    with ObjectStore(folder=source.parent, latency=0.03, failure_rate=0.02) as store:
        killed = subprocess.Popen(
            command("gs://bucket/killed", layout),
            env=os.environ | store.environment,
            stderr=subprocess.DEVNULL,
        )
        while store.statistics().put < 6 and killed.poll() is None:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        for address in addresses[1:]:
            run(store, command(address, layout))
        assert store.statistics().failed > 0
        store.configure(failure_rate=0)
        run(store, [sys.executable, "-c", COMPARE, *addresses])
        run(store, [sys.executable, "-m", "launch.cli", "inspect", addresses[2]])
