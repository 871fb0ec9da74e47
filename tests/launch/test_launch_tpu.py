"""`podgcm launch tpu`, against a stand-in for the cloud whose hosts are real shells."""

import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from launch import cli
from launch.cloud import commands, supervise, tpu
from tests.launch.stand_in_gcloud import Cloud

# Of as many devices as there are chips.
CONFIG = ("--config=configs/demo.py", "--config.mesh.data=-1")
COMMAND = ["--", "train", *CONFIG, "--workdir=gs://b/run"]
UP = ("PROVISIONING", "ACTIVE")
ONE = (("0",),)  # host, whose first try finishes
WAITING = (("wait",),)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Makes the cloud of a test."""
    clouds = []

    def make(**script) -> Cloud:
        if len(script.get("exits", ONE)[-1]) == 2:
            script["accelerator_type"] = "v5p-16"
        clouds.append(Cloud(tmp_path / "cloud", **script))
        monkeypatch.setenv("PATH", f"{tmp_path}/cloud/bin:{os.environ['PATH']}")
        archive = tmp_path / "cloud/buckets/source.tar.gz"
        archive.parent.mkdir()
        with tarfile.open(archive, "w:gz") as tar:
            for name in ("constraints.txt", "launch/cloud/worker.sh"):
                tar.add(tpu.PROJECT / name, name)
        return clouds[0]

    yield make
    for made in clouds:
        made.shut_down()


def launch(action: str, *flags: str) -> int:
    """Runs `podgcm launch tpu`; its exit code."""
    if action in ("run", "create"):
        flags = ("--topology=v5p:2x2x1", *flags)
    if action in ("run", "start"):
        flags = ("--source=gs://source.tar.gz", *flags)
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", "tpu", action, "--name=era5", "--zone=z-a", *flags])
    return end.value.code


def run(*flags: str) -> int:
    return launch("run", *flags, *COMMAND)


def test_from_nothing_to_finished(cloud, capsys):
    made = cloud(states=((), UP), exits=((), (("75", "1", "0"), ("0",))))
    source = [f"--source={tpu.PROJECT}"]
    assert run(*source, "--topology=v5p:2x2x2", "--spot", "--env=A=b c") == 0
    calls = made.calls()
    # The program is where hosts find it before any machine costs.
    assert calls[:4] == ["describe", "storage", "describe", "create"]
    # Both hosts take the archive.
    assert calls[4:10] == [*["describe"] * 2, "install", *["storage"] * 2, "start"]
    assert calls[-4:] == ["describe", "status", "log", "delete"]
    output = capsys.readouterr().out
    assert "era5: PROVISIONING" in output
    logs = sorted((made.folder / "buckets/b/run/logs").iterdir())
    assert [log.name for log in logs] == [f"host-1-{n}.log" for n in range(2)]
    text = logs[0].read_text()
    # The host itself ran it again, with the same words.
    assert text.count(f"podgcm {' '.join(COMMAND[1:])} ->") == 3
    assert all(f"exit code {code} after" in text for code in (75, 1, 0))
    first = (made.folder / "calls.jsonl").read_text().splitlines()[3]
    for flag in ("--accelerator-type=v5p-16", "--node-id=era5-0", "--spot"):
        assert flag in first


def test_preempted_and_created_again(cloud, capsys):
    made = cloud(
        states=((), (*UP, "ACTIVE", "ACTIVE", "SUSPENDED"), UP),
        exits=((), WAITING, ONE),
    )
    assert run() == 0
    calls = made.calls()
    assert calls.count("create") == 2 and calls.count("delete") == 2
    assert "era5 is SUSPENDED (recovery 1 of 20)" in capsys.readouterr().out


def test_preempted_before_anyone_looked(cloud):
    made = cloud(states=((), ("PROVISIONING", "SUSPENDED"), UP), exits=((), ONE, ONE))
    assert run() == 0
    assert made.calls().count("create") == 2


def test_request_that_fails(cloud, capsys):
    made = cloud(states=((), ("PROVISIONING", "FAILED")))
    assert run() == 1
    assert capsys.readouterr().err == "podgcm launch: era5 is FAILED\n"
    assert made.calls().count("create") == 1


def test_preempted_in_every_life(cloud, capsys):
    lost = (*UP, "SUSPENDED")
    made = cloud(states=((), lost, lost), exits=((), WAITING, WAITING))
    assert run("--recoveries=1") == 1
    assert "era5 was lost 2 times; gave up" in capsys.readouterr().err
    # The last machines are there no more than the cloud says; nothing is hidden.
    assert made.calls().count("create") == 2


def test_saved_at_a_sigterm_that_nobody_here_sent(cloud):
    """The processes were told before the cloud tells of it."""
    made = cloud(states=((), UP), exits=((), (("wait", "0"),)))
    original = tpu.QueuedResource.workers
    seen = []

    def workers(self, *args, **options):
        seen.append(1)
        if len(seen) == 1:
            for loop in made.folder.glob("hosts/*/podgcm/loop"):
                os.kill(int(loop.read_text()), 15)
            time.sleep(0.2)
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu.QueuedResource, "workers", workers)
        assert run() == 0
    assert made.calls().count("start") == 2
    assert made.calls().count("create") == 1


def test_users_mistake_is_not_tried_again(cloud, capsys):
    made = cloud(exits=((), (("2",), ("wait",))))
    assert run() == 2
    calls = made.calls()
    assert calls.count("start") == 1
    # The other, which would wait for it, is told to end; the machines stay.
    assert calls[-1] == "stop"
    assert "ended with 2; era5 still costs" in capsys.readouterr().out
    text = (made.folder / "buckets/b/run/logs/host-1-0.log").read_text()
    assert text.count("-> 2") == 1


def test_command_that_always_fails(cloud):
    made = cloud(exits=((), (("1",),)))
    assert run("--tries=3") == 1
    text = (made.folder / "buckets/b/run/logs/host-1-0.log").read_text()
    assert text.count("-> 1") == 3
    assert "delete" not in made.calls()


def test_ssh_that_fails_once(cloud, capsys):
    cloud(failures={"worker.sh install": (1, "ssh: connection refused")})
    assert run() == 0
    assert "connection refused; trying again" in capsys.readouterr().out


def test_ssh_that_always_fails(cloud, capsys):
    made = cloud(failures={"worker.sh install": (99, "ssh: no route to host")})
    assert run() == 1
    assert capsys.readouterr().err == "podgcm launch: gcloud: ssh: no route to host\n"
    assert made.calls().count("install") == 4
    assert "delete" not in made.calls()


def test_hosts_that_do_not_answer_any_more(cloud, capsys, monkeypatch):
    monkeypatch.setattr(supervise, "_PATIENCE", 3)
    made = cloud(failures={"worker.sh status": (99, "ssh: timeout")})
    assert run() == 1
    error = capsys.readouterr().err
    assert "do not answer, although it is ACTIVE; the run may go on" in error
    # Machines that the cloud calls ACTIVE are never deleted for that.
    assert "delete" not in made.calls()


@pytest.mark.parametrize("verb", ["install", "start", "status"])
def test_host_that_gcloud_leaves_out_once(cloud, capsys, verb):
    made = cloud(exits=((), (*ONE, *ONE)), skips={f"worker.sh {verb}": 1})
    assert run("--topology=v5p:2x2x2") == 0
    assert "1 of 2 hosts answer" in capsys.readouterr().out
    assert made.calls().count("create") == 1
    logs = list((made.folder / "buckets/b/run/logs").iterdir())
    assert len(logs) == 2 and all("-> 0" in log.read_text() for log in logs)


@pytest.mark.parametrize(
    "verb, action", [("start", "start"), ("stop", "stop"), ("signal", "profile")]
)
def test_host_that_gcloud_always_leaves_out(cloud, capsys, verb, action):
    cloud(exits=((), (*WAITING, *WAITING)), skips={f"worker.sh {verb}": 99})
    launch("create", "--topology=v5p:2x2x2")
    launch("start", *COMMAND)
    capsys.readouterr()
    assert launch(action, *(COMMAND if action == "start" else ())) == 1
    assert capsys.readouterr().err == "podgcm launch: 1 of 2 hosts answer\n"


def test_watching_hosts_of_which_one_is_always_left_out(cloud, capsys, monkeypatch):
    monkeypatch.setattr(supervise, "_PATIENCE", 3)
    cloud(exits=((), (*WAITING, *WAITING)), skips={"worker.sh status": 99})
    launch("create", "--topology=v5p:2x2x2")
    assert launch("watch") == 1
    assert "no answer (3 of 3): 1 of 2 hosts answer" in capsys.readouterr().out


def test_request_whose_answer_is_lost(cloud, capsys):
    lost = "ERROR: (gcloud.create) internal error"
    made = cloud(
        states=((), (*UP, "SUSPENDED"), UP),
        exits=((), WAITING, ONE),
        failures={"create": (2, lost)},
    )
    assert run() == 0
    assert "internal error; trying again" in capsys.readouterr().out
    assert made.calls().count("create") == 4


def test_request_that_is_there_already(cloud, capsys):
    error = "ERROR: (gcloud.create) ALREADY_EXISTS: era5"
    made = cloud(failures={"create": (1, error)})
    assert launch("create") == 0
    assert "era5 is asked for already" in capsys.readouterr().out
    assert made.calls() == ["create"]


def test_nothing_to_talk_to(cloud, capsys):
    made = cloud()
    for action in ("stop", "profile", "dump-stacks"):
        assert launch(action) == 1
        error = "podgcm launch: there is no queued resource era5: create it\n"
        assert capsys.readouterr().err == error
    assert made.calls() == ["describe"] * 3


def test_a_run_keeps_its_program(cloud, tmp_path, capsys):
    """Until nothing of it runs; then it is the present one, and nothing else."""
    made = cloud(states=((), UP), exits=((), (*WAITING, *WAITING)))
    source = tmp_path / "source"
    source.mkdir()
    for name in tpu.SOURCE:
        if name == "configs":
            shutil.copytree(tpu.PROJECT / name, source / name)
        elif "." in name or name == "LICENSE":
            shutil.copy(tpu.PROJECT / name, source / name)
        else:
            (source / name).mkdir()
    (source / "launch/cloud").mkdir()
    worker = "launch/cloud/worker.sh"
    shutil.copy(tpu.PROJECT / worker, source / worker)
    (source / "train/old.py").write_text("")
    words = (f"--source={source}", "--topology=v5p:2x2x2")

    def modules() -> list[list[str]]:
        homes = sorted(made.folder.glob("hosts/*"))
        return [os.listdir(home / "podgcm/source/train") for home in homes]

    def interrupt(self, lines):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu.QueuedResource, "log", interrupt)
        assert run(*words) == 130
        assert modules() == [["old.py"]] * 2
        (source / "train/old.py").rename(source / "train/new.py")
        home = made.folder / "hosts/1/podgcm"
        for name in ("loop", "pid"):
            os.kill(int((home / name).read_text()), 9)
        wait_for(lambda: len(running(made)) == 1)
        capsys.readouterr()
        assert run(*words) == 130
        assert "era5 has begun, and keeps its program" in capsys.readouterr().out
        assert modules() == [["old.py"]] * 2
        wait_for(lambda: len(running(made)) == 2)
        assert launch("stop") == 0
        wait_for(lambda: not running(made))
        assert run(*words) == 130
        assert modules() == [["new.py"]] * 2
    assert made.calls().count("create") == 1


def test_machines_that_go_while_being_installed(cloud):
    made = cloud(
        states=((), (*UP, "SUSPENDED"), UP),
        exits=((), ONE, ONE),
        failures={"worker.sh install": (4, "ssh: no route to host")},
    )
    assert run() == 0
    assert made.calls().count("create") == 2


def test_deletion_that_fails(cloud, capsys):
    made = cloud(failures={"delete": (99, "ERROR: (gcloud.x) internal error")})
    assert run() == 1
    error = capsys.readouterr().err
    assert "era5 is not deleted, and costs until it is" in error
    assert "run: gcloud compute tpus queued-resources delete era5" in error
    assert error.count("\n") == 1
    assert made.calls().count("delete") == 6


def test_interrupted_watcher_and_the_next_one(cloud, capsys, monkeypatch):
    made = cloud(exits=((), WAITING))
    original = tpu.QueuedResource.log

    def interrupt(self, lines):
        raise KeyboardInterrupt

    monkeypatch.setattr(tpu.QueuedResource, "log", interrupt)
    assert run() == 130
    assert "era5 goes on without this" in capsys.readouterr().err
    assert len(running(made)) == 1
    # The next one sees how it ends.
    monkeypatch.setattr(tpu.QueuedResource, "log", original)
    assert launch("stop") == 0
    assert launch("watch") == 75
    for verb in ("create", "install", "start"):
        assert made.calls().count(verb) == 1


def test_attaches_to_a_run(cloud, capsys):
    made = cloud(exits=((), WAITING))
    assert launch("create") == 0
    assert launch("start", *COMMAND) == 0
    assert len(running(made)) == 1
    for home in made.folder.glob("hosts/*"):
        (home / "exits").write_text("wait\n0\n")

    def end_soon(self, lines, original=tpu.QueuedResource.log):
        for pid in running(made):
            os.kill(pid, 15)
        return original(self, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu.QueuedResource, "log", end_soon)
        assert run("--keep") == 0
    assert "era5 is at it already" in capsys.readouterr().out
    for verb in ("create", "install", "start"):
        assert made.calls().count(verb) == 1
    assert "delete" not in made.calls()


def test_one_that_is_there_but_gone(cloud):
    made = cloud(states=(("SUSPENDED",), UP), exits=((), ONE))
    assert run() == 0
    calls = made.calls()
    assert calls[:5] == [*["describe"] * 2, "delete", "describe", "create"]


def test_watching_what_was_taken_away(cloud, capsys):
    cloud(states=(("SUSPENDED",),), exits=((),))
    assert launch("watch") == 75
    assert "era5 is SUSPENDED" in capsys.readouterr().err


def test_stacks_of_a_hang(cloud, capsys):
    made = cloud(exits=((), WAITING))
    launch("create")
    launch("start", *COMMAND)
    wait_for(lambda: len(logs_with(made, "-> wait")) == 1)
    assert launch("dump-stacks") == 0
    wait_for(lambda: len(logs_with(made, "stacks")) == 1)
    assert launch("profile") == 0
    assert made.calls()[-1] == "signal"


def test_another_command_is_refused(cloud, capsys):
    cloud(exits=((), WAITING))
    launch("create")
    launch("start", *COMMAND)
    assert launch("start", "--", "train", *CONFIG, "--workdir=gs://b/other") == 1
    error = capsys.readouterr().err
    assert "another command runs on host-1-0; stop it first" in error
    assert error.count("\n") == 1


def test_dry_run_runs_nothing(cloud, capsys):
    made = cloud()
    for action, flags in {
        "run": ("--slices=2", *COMMAND),
        "create": (),
        "start": COMMAND,
        **{name: () for name in ("watch", "logs", "profile", "dump-stacks")},
        "stop": (),
        "delete": (),
    }.items():
        assert launch(action, "--dry_run", *flags) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith(("gcloud ", "tar ", "# ")) for line in lines), lines
    assert made.calls() == []


def test_mistakes(cloud, capsys, monkeypatch):
    made = cloud()
    for words, flags in {
        "there is no such slice": ("--topology=v5e:4x5", *COMMAND),
        "--workdir=gs://BUCKET/RUN": ("--",),
        "with --workdir=gs://": ("--", "train", *CONFIG, "--workdir=/tmp/run"),
        "--dry_run before the lone --, not after it": (*COMMAND, "--dry_run"),
        "has 8 devices, but v5p:2x2x1 has 4": (*COMMAND, "--config.mesh.data=2"),
        "but 3 slices of v5p:2x2x1 has 12 chips": (
            *("--slices=3", *COMMAND, "--config.mesh.data=1"),
        ),
        "mesh.data=1 is not a multiple of --slices=2": (
            *("--slices=2", *COMMAND, "--config.mesh.data=1", "--config.mesh.lat=4"),
        ),
        "does not divide train.batch=3": (
            *("--slices=2", *COMMAND, "--config.train.batch=3"),
        ),
        "unknown configuration key": (*COMMAND, "--config.trian.batch=3"),
        "--env=a-b: write NAME=VALUE": ("--env=a-b", *COMMAND),
        "lacks LICENSE": (f"--source={made.folder}", *COMMAND),
    }.items():
        assert launch("run", *flags) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    for config in ("configs/none.py", "tests/c.py", f"{tpu.PROJECT}/configs/demo.py"):
        words = ("--", "train", f"--config={config}", "--workdir=gs://b/run")
        assert launch("run", f"--source={tpu.PROJECT}", *words) == 2
        assert f"--config={config}: hosts get what" in capsys.readouterr().err
    assert launch("run", *COMMAND, "--keep") == 2
    assert "unrecognized arguments: --keep" in capsys.readouterr().err
    assert made.calls() == []
    monkeypatch.setenv("PATH", "/nowhere")
    assert launch("watch") == 2
    assert "gcloud is not installed" in capsys.readouterr().err


def test_refusals_are_not_repeated(cloud, capsys):
    error = "ERROR: (gcloud.create) PERMISSION_DENIED: no\nmore about it"
    made = cloud(failures={"create": (99, error)})
    assert run() == 1
    assert capsys.readouterr().err == (
        "podgcm launch: gcloud: ERROR: (gcloud.create) PERMISSION_DENIED: no\n"
    )
    assert made.calls().count("create") == 1


@pytest.mark.parametrize(
    "specs, hosts",
    [
        ([{"nodeId": "era5-0"}], 2),
        ([{"nodeId": "era5-0"}, {"nodeId": "era5-1"}], 4),
        ([{"multisliceParams": {"nodeCount": 3}}], 6),
        # However slices are told, each counts once.
        ([{"nodeId": f"{n}", "multisliceParams": {"nodeCount": 2}} for n in "01"], 4),
    ],
)
def test_hosts_of_several_slices(monkeypatch, specs, hosts):
    nodes = [{**spec, "node": {"acceleratorType": "v5p-16"}} for spec in specs]
    text = json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": nodes}})
    monkeypatch.setattr(commands.Shell, "run", lambda *args, **options: text)
    resource = tpu.QueuedResource(commands.Shell(False), "era5", "z-a")
    assert resource.hosts() == hosts


def test_tries_are_positive():
    with pytest.raises(ValueError, match="tries=0"):
        commands.Shell(False).run(["true"], tries=0)


# --- What the tests above need -------------------------------------------------------


def running(made: Cloud) -> list[int]:
    """Processes of the command."""
    pids = []
    for path in made.folder.glob("hosts/*/podgcm/pid"):
        pid = int(path.read_text())
        if Path(f"/proc/{pid}").exists():
            pids.append(pid)
    return pids


def logs_with(made: Cloud, text: str) -> list[Path]:
    paths = made.folder.glob("hosts/*/podgcm/log")
    return [path for path in paths if text in path.read_text()]


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
