"""The commands of `podgcm launch` against the programs' own parsers, and Dataflow."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from launch import cli
from launch.cloud import dataflow
from launch.cloud.commands import Shell
from launch.cloud.slices import hosts_of, parse_slice, require_queued
from launch.cloud.tpu import PROJECT, SOURCE
from pipeline.errors import UserError

TRAIN = [
    *("--", "train", "--config=configs/tl255.py", "--config.mesh.lat=-1"),
    *("--config.data.store=gs://b/a store", "--workdir=gs://b/run"),
]
PREPROCESS = ["--", "--source=gs://s/era5", "--grid=TL63", "--output=gs://b/store"]
ZONE = ["--name=era5", "--zone=us-east5-a", "--project=p"]
SLICE = ["--topology=v5p:4x4x8", "--slices=2", "--spot"]
POOLS = ["--cluster=c", "--location=us-east5-a", "--project=p"]
IMAGE = "--image=us-docker.pkg.dev/p/r/i:1"
JOB = ["--project=podgcm", "--region=us-central1"]
TEMPORARY = ["--bucket=gs://bucket/d"]
LAUNCHES = [
    *[
        ["tpu", action, *ZONE, *flags]
        for action, flags in {
            "run": [*SLICE, "--flag=--valid-until-duration=6h", *TRAIN],
            "create": [*SLICE, "--flag=--reserved", "--flag=--network=n"],
            "start": ["--coordinator_port=8476", "--env=A=b c", *TRAIN],
            "watch": ["--internal_ip"],
            **{a: [] for a in ("logs", "profile", "dump-stacks", "stop", "delete")},
        }.items()
    ],
    *[
        ["gke", action, *(["--name=era5"] if action != "build" else []), *flags]
        for action, flags in {
            "build": [IMAGE, "--project=p", "--flag=--service-account=a"],
            "create": [*SLICE, *POOLS, "--flag=--reservation=r"],
            "start": [IMAGE, *SLICE, *TRAIN],
            **{a: [] for a in ("watch", "logs", "profile", "dump-stacks")},
            "delete": POOLS,
        }.items()
    ],
    ["dataflow", "build", IMAGE, "--project=p"],
    [
        "dataflow",
        "run",
        "--name=era5",
        *JOB,
        "--bucket=gs://bucket/d",
        IMAGE,
        *PREPROCESS,
    ],
    ["dataflow", "list", "--name=era5", *JOB],
    ["dataflow", "cancel", "--name=era5", *JOB],
]


@pytest.fixture
def printed(capsys) -> list[str]:
    """Every command of every launch, as a dry run prints it."""
    for launch in LAUNCHES:
        with pytest.raises(SystemExit) as end:
            cli.main(["launch", *launch[:2], "--dry_run", *launch[2:]])
        assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    # Also what a comment advises to run.
    return [line[line.find("gcloud ") :] if "#" in line else line for line in lines]


def lint(commands: list[str], tmp_path: Path) -> None:
    """Has gcloud's own parser look at commands, none of which it runs."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    wrong = "gcloud compute tpus queued-resources delete era5 --forced"
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": c} for c in [*commands, wrong]]))
    result = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "config")},
        capture_output=True,
        text=True,
    )
    if "Invalid choice: 'lint-gcloud-commands'" in result.stderr:
        pytest.skip("this gcloud cannot check commands without running them")
    assert result.returncode == 0, result.stderr
    errors = {
        found["command_string"]: found["error_message"]
        for found in json.loads(result.stdout)
        if not found["success"]
    }
    assert list(errors) == [wrong]


def test_gcloud_understands_every_command(printed, tmp_path):
    commands = sorted({line for line in printed if line.startswith("gcloud ")})
    assert len(commands) > 20
    verbs = {" ".join(command.split()[1:4]) for command in commands}
    assert {"compute tpus queued-resources", "compute firewall-rules create"} <= verbs
    lint(commands, tmp_path)


def test_kubectl_understands_every_command(printed):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    commands = [line for line in printed if line.startswith("kubectl ")]
    assert {c.split()[1] for c in commands} == {*("apply get logs exec delete".split())}
    for command in [*commands, "kubectl get --not-a-flag"]:
        # It parses flags before it shows help, and asks no cluster.
        words = shlex.split(command.partition(" <<")[0].partition(" -- ")[0])
        result = subprocess.run([*words, "--help"], capture_output=True, text=True)
        assert ("unknown flag" in result.stderr) == ("--not-a-flag" in words), command


def test_shell_commands_for_hosts_are_shell(printed):
    commands = [
        word.removeprefix("--command=")
        for line in printed
        if "queued-resources ssh" in line
        for word in shlex.split(line)
        if word.startswith("--command=")
    ]
    assert len(commands) > 8
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    start = next(c for c in commands if "worker.sh start" in c)
    words = shlex.split(start.partition(" && ")[0])
    assert words[-len(TRAIN[1:]) :] == TRAIN[1:]


def test_dataflow_command_is_one_of_preprocess(printed):
    (line,) = [line for line in printed if line.startswith("podgcm ")]
    args = cli.parse(shlex.split(line)[1:])
    assert (args.command, args.runner) == ("preprocess", "DataflowRunner")
    assert args.output == "gs://b/store"
    pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient")
    from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions

    from pipeline import runners

    offline = ["--dry_run=True", "--no_auth"]
    beam = shlex.split(line)[shlex.split(line).index("--") + 1 :]
    options = runners.make_options("DataflowRunner", [*beam, *offline])
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert cloud.temp_location == "gs://bucket/d/temp" and cloud.job_name == "era5"
    assert workers.sdk_container_image == IMAGE.removeprefix("--image=")
    assert workers.max_num_workers == 100


def test_dataflow_mistakes():
    def command(*arguments, bucket="gs://bucket/d"):
        return dataflow.preprocess(
            arguments,
            name="era5",
            project="p",
            region="r",
            bucket=bucket,
            image="i",
            workers=1,
            machine_type="m",
        )

    with pytest.raises(UserError, match="--output=gs://"):
        command("--source=x", "--output=/tmp/store")
    with pytest.raises(UserError, match="--bucket=bucket: write gs://"):
        command("--output=gs://b/s", bucket="bucket")
    with pytest.raises(UserError, match="leave it out"):
        command("--output=gs://b/s", "--runner=DirectRunner")


@pytest.mark.parametrize(
    "flag",
    [
        *("--slices=0", "--slices=2.5", "--tries=0", "--poll=0", "--batch_size=0"),
        *("--recoveries=-1", "--coordinator_port=-5"),
    ],
)
def test_numbers_that_make_no_sense(capsys, flag):
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", "tpu", "run", *ZONE, *SLICE, flag, "--dry_run", *TRAIN])
    assert end.value.code == 2
    name, _, number = flag.partition("=")
    error = f"argument {name}: {number} is no whole number of at least"
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    "place, action, told",
    [
        ("tpu", "watch", True),
        ("gke", "watch", True),
        ("tpu", "delete", False),
        ("gke", "build", False),
        ("dataflow", "run", False),
    ],
)
def test_interrupted(capsys, monkeypatch, place, action, told):
    """What comes back to a run says so, and nothing else does."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    for name in ("run", "stream"):
        monkeypatch.setattr(Shell, name, interrupt)
    launch = next(words for words in LAUNCHES if words[:2] == [place, action])
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", *launch])
    assert end.value.code == 130
    told_so = "era5 goes on without this; the same command" in capsys.readouterr().err
    assert told_so == told


def test_dry_run_of_dataflow_stands_before_the_lone_dashes(capsys):
    run = ["dataflow", "run", "--name=era5", *JOB, *TEMPORARY, IMAGE]
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", *run, *PREPROCESS, "--dry_run"])
    assert end.value.code == 2
    assert "write --dry_run before the lone --" in capsys.readouterr().err


@pytest.mark.parametrize(
    "topology, accelerator, hosts, machine",
    [
        ("v4:2x2x1", "v4-8", 1, "ct4p-hightpu-4t"),
        ("v4:4x4x4", "v4-128", 16, "ct4p-hightpu-4t"),
        ("v5e:1x1", "v5litepod-1", 1, "ct5lp-hightpu-1t"),
        ("v5e:2x4", "v5litepod-8", 1, "ct5lp-hightpu-8t"),
        ("v5e:4x4", "v5litepod-16", 4, "ct5lp-hightpu-4t"),
        ("v5p:2x2x2", "v5p-16", 2, "ct5p-hightpu-4t"),
        ("v5p:4x4x8", "v5p-256", 32, "ct5p-hightpu-4t"),
        ("v5p:16x16x24", "v5p-12288", 1536, "ct5p-hightpu-4t"),
        ("v6e:16x16", "v6e-256", 64, "ct6e-standard-4t"),
    ],
)
def test_names_of_slices(topology, accelerator, hosts, machine):
    slice_ = parse_slice(topology)
    require_queued(slice_)
    assert slice_.accelerator_type == accelerator
    assert slice_.hosts == hosts == hosts_of(accelerator)
    assert slice_.machine_type == machine


def test_slices_that_are_not_there():
    for topology in ("v5e:4x5", "v5p:4x4", "v5p:8x4x4", "v4:2x2x3"):
        with pytest.raises(UserError, match="there is no such slice; near it are"):
            parse_slice(topology)
    with pytest.raises(UserError, match="v5p-2048 is 8x8x16"):
        require_queued(parse_slice("v5p:4x16x16"))
    with pytest.raises(UserError, match="v3-8"):
        hosts_of("v3-8")


def test_container_installs_the_pinned_versions():
    text = (PROJECT / dataflow.TRAIN_CONTAINER).read_text()
    copied = {
        word
        for line in text.splitlines()
        if line.startswith("COPY ")
        for word in line.split()[1:-1]
    }
    assert copied == set(SOURCE)
    assert '--constraint constraints.txt ".[tpu,cloud]"' in text
    assert "FROM python:3.11" in text
