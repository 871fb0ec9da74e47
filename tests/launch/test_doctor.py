"""`podgcm doctor`: what it finds on machines that are fit, and that are not."""

import json
import os
import socket
import subprocess
import sys

import pytest

from launch import cli, machine
from launch.doctor import merged
from launch.machine import FAIL, OK, WARN, Finding
from train.config import to_json

TIMEOUT = 120  # seconds


@pytest.fixture
def config_file(tmp_path, tiny_config):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(tiny_config)))
    return file


@pytest.fixture
def examine(capfd):
    """Exit code of `podgcm doctor ... --json`, and its findings by name."""

    def examine(*argv):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", "--json", *map(str, argv)])
        return ended.value.code, findings(capfd.readouterr().out)

    return examine


def findings(line):
    told = json.loads(line)
    checks = {x.pop("name"): Finding(**x) for x in told["checks"]}
    failing = [name for name, finding in checks.items() if finding.status == FAIL]
    assert told["fit"] == (not failing)
    return checks


def failing(checks):
    return {name: x for name, x in checks.items() if x.status == FAIL}


def test_a_healthy_machine_is_fit_and_left_as_it_was(config_file, tmp_path, examine):
    workdir = tmp_path / "runs" / "first"
    code, checks = examine(
        f"--config={config_file}", "--config.mesh.data=2", f"--workdir={workdir}"
    )
    assert (code, failing(checks)) == (0, {})
    assert "'data': 2" in checks["experiment"].found
    assert checks["devices"].found.startswith("8 cpu devices")
    assert checks["collective"].found.startswith("8 devices")
    assert list(tmp_path.iterdir()) == [config_file]


def test_the_table_has_a_line_for_each_check(capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    *lines, last = capfd.readouterr().out.splitlines()
    assert ended.value.code == 0 and last == "fit to train"
    assert {line.split()[0] for line in lines} <= {OK, WARN}
    assert any(line.startswith("ok    python: 3.") for line in lines)


def test_a_workdir_that_cannot_be_used(tmp_path, examine):
    file = tmp_path / "file"
    file.write_text("not a folder")
    code, checks = examine(f"--workdir={file / 'run'}")
    assert code == 2 and list(failing(checks)) == ["workdir"]
    assert "cannot be written to" in checks["workdir"].found
    assert checks["collective"].status == WARN  # not tried
    code, checks = examine(f"--workdir={tmp_path}")
    assert code == 2 and "not empty and no run" in checks["workdir"].found
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_without_permission(tmp_path):
    """By a process that has given up root, if these tests are root's."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    program = (
        "import os, sys\n"
        "from launch import machine\n"
        "from train import folder\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "machine.check_workdir(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert "UserError" in done.stderr and "make it writable for" in done.stderr


@pytest.mark.parametrize(
    "overrides, check, message",
    [
        (["mesh.data=16", "train.batch=16"], "experiment", "here are 8"),
        (["mesh.lat=3"], "experiment", "mesh.lat=3 does not divide"),
        (["data.store=/nowhere"], "experiment", "/nowhere"),
        (["data.frames=500"], "experiment", ""),
        (["train.bach=1"], "configuration", "did you mean 'train.batch'"),
        (["run.join_minutes=0"], "configuration", "must be more than 0"),
    ],
)
def test_a_configuration_that_does_not_fit(
    config_file, examine, overrides, check, message
):
    code, checks = examine(
        f"--config={config_file}", *(f"--config.{x}" for x in overrides)
    )
    assert code == 2 and list(failing(checks)) == [check]
    assert message in checks[check].found


def test_overrides_of_nothing(capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--config.train.steps=1"])
    assert ended.value.code == 2
    assert "needs --config=FILE" in capfd.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_COORDINATOR_ADDRESS": "somewhere:1234"},
        {
            "JAX_COORDINATOR_ADDRESS": "somewhere",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "0",
        },
        {
            "JAX_COORDINATOR_ADDRESS": "somewhere:1234",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "2",
        },
    ],
)
def test_variables_that_make_no_sense(variables, examine, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, checks = examine()
    assert code == 2 and list(failing(checks)) == ["processes"]
    assert "set all three" in checks["processes"].found
    assert "devices" not in checks


def test_an_unknown_platform():
    done = start({"JAX_PLATFORMS": "abacus"})
    out, _ = done.communicate(timeout=TIMEOUT)
    assert done.returncode == 2
    assert list(failing(findings(out.splitlines()[-1]))) == ["devices"]


def test_packages_out_of_range(examine, monkeypatch):
    version = machine.importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata,
        "version",
        lambda name: {"jaxlib": "0.9.1", "optax": "0.1"}.get(name) or version(name),
    )
    finding = machine.check_packages()
    assert finding.status == FAIL
    assert "optax is 0.1, not >=0.2.8" in finding.found
    assert "jaxlib 0.9.1 do not belong together" in finding.found
    assert "pip install" in finding.todo


def test_chips_that_are_held_or_not_seen(tmp_path, examine, monkeypatch):
    chips = tmp_path / "accel0"
    chips.write_text("")
    lock, processes = tmp_path / "lock", tmp_path / "proc"
    found = machine.check_accelerators(tmp_path, processes, lock)
    assert found == Finding(OK, "1 TPU chips, held by nobody")
    lock.write_text("")
    found = machine.check_accelerators(tmp_path, processes, lock)
    assert found.status == WARN and f"rm {lock}" in found.todo
    (processes / "12" / "fd").mkdir(parents=True)
    (processes / "12" / "fd" / "3").symlink_to(chips)
    found = machine.check_accelerators(tmp_path, processes, lock)
    assert found.status == FAIL and "kill 12" in found.todo
    monkeypatch.setattr("launch.doctor.tpu_chips", lambda: [str(chips)])
    code, checks = examine()
    assert code == 2 and "JAX sees only the CPU" in checks["devices"].found
    assert checks["devices"].todo == "unset JAX_PLATFORMS=cpu"


def test_a_process_that_fails_is_named():
    good, bad = Finding(OK, "good"), Finding(FAIL, "bad", "mend it")
    reports = [{"a": good, "b": good}, {"a": bad, "b": good}, {"a": bad}]
    assert merged(reports, ["x", "y", "z"]) == {
        "a": Finding(FAIL, "process 1 on y (and 2): bad", "mend it"),
        "b": good,
    }
    assert merged([{"a": bad}], ["x"]) == {"a": bad}


def start(variables, *argv):
    """A process of `podgcm doctor --json` with other variables."""
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "doctor", "--json", *argv],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(change, *argv):
    """Two that join each other; the second differs in variables and arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pod = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        start({**pod, "JAX_PROCESS_ID": "0"}),
        start({**pod, "JAX_PROCESS_ID": "1", **change}, *argv),
    ]


def finish(processes):
    """Exit codes and what the processes printed."""
    try:
        outs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outs


def test_a_pod_is_examined(config_file, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.cli", "pod", "--processes=2"),
            *("--devices=2", "--restarts=0", "--", "doctor", "--json"),
            *(f"--config={config_file}", "--config.mesh.data=-1"),
            *("--config.train.batch=4", f"--workdir={tmp_path / 'run'}"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    lines = [line for line in done.stdout.splitlines() if '"checks"' in line]
    assert done.returncode == 0 and len(lines) == 1, done.stdout
    checks = findings(lines[0].removeprefix("[0] "))
    assert checks["devices"].found.startswith("4 cpu devices")
    assert "'data': 4" in checks["experiment"].found
    for name in ("clocks", "workdir shared", "alike", "collective"):
        assert checks[name].status == OK
    assert list(tmp_path.iterdir()) == [config_file]


@pytest.mark.parametrize(
    "change, argv, check, message",
    [
        (
            {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
            [],
            "alike",
            "XLA_FLAGS",
        ),
        ({"JAX_NUM_CPU_DEVICES": "3"}, [], "alike", "numbers of devices differ"),
        ({}, ["--config=/nowhere"], "configuration", "no configuration file"),
        ({}, ["--workdir=/proc/run"], "workdir", "--workdir=/proc/run"),
    ],
)
def test_processes_that_differ(change, argv, check, message):
    codes, (first, second) = finish(start_two(change, *argv))
    found = failing(findings(first.splitlines()[-1]))
    assert codes == [2, 2] and check in found
    assert message in found[check].found and "process 1" in found[check].found
    assert '"checks"' not in second
