"""What Dataflow would get for forty years of ERA5, without any cloud: pipeline, worker
pool, container, package."""

import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import preprocess, runners
from pipeline.fields import create_fields
from pipeline.request import Request, make_plans
from pipeline.shards import work_items
from pipeline.variables import MODEL_VARIABLES, PRESSURE_LEVELS, VARIABLES

pytestmark = pytest.mark.drill

beam = pytest.importorskip("apache_beam")
PROJECT = Path(__file__).parents[2]
IMAGE = "us-central1-docker.pkg.dev/project/podgcm/worker:0.1.0"
OFFLINE = ["--dry_run=True", "--no_auth"]
FLAGS = [
    "--project=project",
    "--region=us-central1",
    "--job_name=era5",
    "--temp_location=gs://bucket/tmp",
    "--staging_location=gs://bucket/staging",
    f"--sdk_container_image={IMAGE}",
    "--sdk_location=container",
    "--machine_type=n2-standard-4",
    "--num_workers=16",
    "--max_num_workers=100",
    "--autoscaling_algorithm=THROUGHPUT_BASED",
    "--number_of_worker_harness_threads=2",
    "--flexrs_goal=COST_OPTIMIZED",
]


@pytest.fixture(scope="session")
def arco(tmp_path_factory):
    """The shape of ARCO-ERA5: metadata and coordinates, hourly for 151 years, and not
    a single value."""
    path = tmp_path_factory.mktemp("arco") / "era5.zarr"
    hours = np.arange("1900-01-01", "2051-01-01", dtype="datetime64[h]")
    coordinates = {
        "time": hours.astype("datetime64[ns]"),
        "level": np.array(PRESSURE_LEVELS, np.int64),
        "latitude": np.linspace(90, -90, 721),
        "longitude": np.arange(1440) / 4,
    }
    # Static fields are repeated hourly there.
    single = ("time", "latitude", "longitude")
    several = ("time", "level", "latitude", "longitude")
    dimensions = {
        name: several if VARIABLES[name].kind == "levels" else single
        for name in MODEL_VARIABLES
    }
    create_fields(path, coordinates, dimensions, {}, "no values")
    zarr.consolidate_metadata(path, zarr_format=2)
    return path


@pytest.fixture(scope="session")
def targets(arco):
    request = Request(
        source=str(arco), grid="TL63,TL127", times="1979-01-01/2018-12-31T18/6h"
    )
    return [(f"gs://bucket/{plan.grid}", plan) for plan in make_plans(request)]


@pytest.fixture(scope="session")
def items(targets):
    return work_items(targets, [set(plan.items()) for _, plan in targets])


@pytest.fixture(scope="module")
def jobs(targets, items):
    """The jobs of both chains, as they would be submitted."""

    def refuse(*_):
        raise AssertionError("the network was asked")

    def job(chain, *arguments):
        options = runners.make_options("DataflowRunner", [*FLAGS, *OFFLINE])
        pipeline = beam.Pipeline(options=options)
        chain(pipeline, targets, *arguments)
        return pipeline.run().job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return [
            job(preprocess.shards_chain, items, "_build/runs/now"),
            job(preprocess.statistics_chain),
        ]


def test_work_of_forty_years(targets, items):
    assert [plan.steps for _, plan in targets] == [58440, 58440]
    # Nine variables in blocks of 128 times, and two static ones.
    assert [plan.shard_steps for _, plan in targets] == [128, 32]
    blocks = -(-58440 // 128)
    assert len(items) == 9 * blocks + 2 == 4115
    shards = [shard for item in items for shard in item.shards]
    assert len(shards) == sum(len(plan.items()) for _, plan in targets) == 20560


def test_each_chain_is_one_chain(jobs):
    expected = [
        ["Items", "Reshuffle", "ParDo(WriteShards)", "SaveReport"],
        ["Shards", "Reshuffle", "ParDo(ShardStatistics)"],
    ]
    for job, names in zip(jobs, expected, strict=True):
        transforms = job.proto_pipeline.components.transforms
        (root,) = (transforms[key] for key in job.proto_pipeline.root_transform_ids)
        steps = [transforms[key] for key in root.subtransforms]
        steps = steps or [transforms[k] for k in job.proto_pipeline.root_transform_ids]
        assert [step.unique_name for step in steps] == names
        # Each takes what the one before gives, and there is nothing else.
        for before, after in zip(steps, steps[1:], strict=False):
            assert list(after.inputs.values()) == list(before.outputs.values())
            assert len(after.inputs) == 1
        groupings = [
            transform.unique_name
            for transform in transforms.values()
            if "group_by_key" in transform.spec.urn or "combine" in transform.spec.urn
        ]
        assert groupings == ["Reshuffle/ReshufflePerKey/GroupByKey"]
        # Dataflow takes 10 MB.
        assert job.proto_pipeline.ByteSize() < 1e6


def test_worker_pool(jobs):
    """What the flags after the lone `--` become."""
    apiclient = pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient")

    class Client(apiclient.DataflowApplicationClient):
        """Keeps what it would upload."""

        def __init__(self, options):
            self.staged = {}
            super().__init__(options)

        def stage_file_with_retry(self, folder, name, content, **_):
            self.staged[name] = content

    for job in jobs:
        client = Client(job.options)
        client.create_job_description(job)
        # No package is uploaded: it is in the container.
        assert "pipeline.pb" in client.staged
        assert not [n for n in client.staged if n.endswith((".whl", ".tar.gz"))]
        environment = job.proto.environment
        (pool,) = environment.worker_pools
        assert pool.machine_type == "n2-standard-4"
        assert pool.num_workers == 16
        assert pool.autoscaling_settings.max_num_workers == 100
        assert "BASIC" in pool.autoscaling_settings.algorithm.name
        assert pool.num_threads_per_worker == 2
        (container,) = pool.sdk_harness_container_images
        assert container.container_image == IMAGE
        goal = environment.flex_resource_scheduling_goal
        assert goal.name == "FLEXRS_COST_OPTIMIZED"
        assert environment.version["job_type"] == "FNAPI_BATCH"
        assert len(type(job.proto).serialize(job.proto)) < 1e6


def test_missing_flags_are_told(targets):
    with pytest.raises(ValueError, match="cannot be used: .*temp_location") as info:
        runners.make_options("DataflowRunner", ["--project=project", "--no_auth"])
    assert "\n" not in str(info.value)


# --- container and package ----------------------------------------------------------


def test_container_has_the_versions_of_the_constraints():
    constraints = dict(
        line.split("==")
        for line in (PROJECT / "constraints.txt").read_text().split("\n")
        if "==" in line
    )
    text = (PROJECT / "launch/dataflow/Dockerfile").read_text()
    lines = [line for line in text.split("\n") if not line.startswith("#")]
    instructions = "\n".join(lines).replace("\\\n", " ")
    (base,) = re.findall("^FROM (.*)", instructions, re.M)
    assert base == f"apache/beam_python3.11_sdk:{constraints['apache-beam']}"
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    (install,) = re.findall("pip install (.*)", instructions)
    assert "--constraint constraints.txt" in install
    (extras,) = re.findall(r'"\.\[(.*)\]"', install)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    # All that the package is built of is copied, and is there.
    copied = {
        name
        for c in re.findall("^COPY (.*) .*$", instructions, re.M)
        for name in c.split()
    }
    assert all((PROJECT / name).exists() for name in copied)
    assert "constraints.txt" in copied and "pyproject.toml" in copied
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in found} <= copied
    assert {"LICENSE", project["project"]["readme"]} <= copied
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in instructions


def test_wheel_alone_can_preprocess(make_dataset, tmp_path):
    """Built from what the container copies; no other file of the project is found."""
    copy, site = tmp_path / "copy", tmp_path / "site"
    copy.mkdir()
    for name in ("configs", "launch", "model", "pipeline", "train"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, copy / name, ignore=ignore)
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(PROJECT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps"]
    built = subprocess.run(
        [*pip, f"--wheel-dir={tmp_path}", str(copy)], capture_output=True, text=True
    )
    if "requirement setuptools" in built.stderr:
        pytest.skip("the package index, which has setuptools, cannot be reached")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("podgcm-*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    make_dataset(steps=2).to_zarr(tmp_path / "source", zarr_format=2)
    script = """
import sys
from launch.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
for name, module in sorted(sys.modules.items()):
    top = name.split(".")[0]
    assert top != "jax", name
    assert top != "train" or name in ("train", "train.exit_codes"), name
    if top in ("pipeline", "model", "launch", "configs"):
        print(module.__file__)
"""
    command = [
        *(sys.executable, "-c", script, "preprocess"),
        *(f"--source={tmp_path}/source", "--grid=T21", f"--output={tmp_path}/store"),
        *("--variables=temperature", "--levels=500,850"),
    ]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    files = result.stdout.split()
    assert len(files) > 10 and all(file.startswith(str(site)) for file in files), files
    assert (tmp_path / "store/_build/READY").exists()
