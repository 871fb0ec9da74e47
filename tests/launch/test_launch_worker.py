"""The loop on a TPU host, launch/cloud/worker.sh, in a real shell."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.cloud.tpu import PROJECT

WORKER = PROJECT / "launch/cloud/worker.sh"
# Ends as the line of `exits` for this try says.
COMMAND = """
echo x >>count
echo "try $(wc -l <count) of $*" >>tries
exit $(sed -n "$(wc -l <count)p" exits)
"""
# Runs until SIGTERM, and takes its time to save.
WAITING = (
    "trap 'sleep 0.2; echo saved >saved; exit 75' TERM\n"
    "echo >ready\nwhile :; do sleep 0.02; done"
)


class Host:
    """A host, whose home is a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = os.environ | {
            "PODGCM_FOLDER": str(folder),
            "PODGCM_PAUSE": "0",
            "PODGCM_COPY_EVERY": "0.1",
        }

    def __call__(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", WORKER, *words], env=self.env, capture_output=True, text=True
        )

    def script(self, text: str) -> str:
        path = self.folder / "script.sh"
        path.write_text(f"cd {self.folder}\n{text}\n")
        return str(path)

    def state(self) -> str:
        name, _, state = self("status").stdout.strip().split(" ", 2)
        assert name == "podgcm-worker"
        return state

    def until(self, state: str) -> None:
        end = time.monotonic() + 60
        while self.state() != state:
            assert time.monotonic() < end, (self.state(), self("log").stdout)
            time.sleep(0.05)

    def ready(self) -> None:
        """Waits until `WAITING` heeds SIGTERM."""
        end = time.monotonic() + 60
        while not (self.folder / "ready").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        (self.folder / "ready").unlink()

    def pid(self, name: str = "pid") -> int:
        return int((self.folder / name).read_text())


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    for name in ("loop", "pid"):
        if (tmp_path / name).exists():
            try:
                os.kill(host.pid(name), signal.SIGKILL)
            except ProcessLookupError:
                pass


def exits(host: Host, *codes: int, tries: int = 10, logs: str = "") -> str:
    """The state after a command that ended so, try by try."""
    (host.folder / "exits").write_text("\n".join(map(str, codes)))
    started = host("start", str(tries), logs, "bash", host.script(COMMAND), "a  b", "*")
    assert started.returncode == 0, started.stderr
    end = time.monotonic() + 60
    while not host.state().startswith("ended"):
        assert time.monotonic() < end
        time.sleep(0.05)
    return host.state()


def test_again_until_it_finishes(host):
    assert host.state() == "absent"
    assert exits(host, 75, 1, 134, 137, 0) == "ended 0"
    tries = (host.folder / "tries").read_text().splitlines()
    assert tries == [f"try {n} of a  b *" for n in range(1, 6)]


def test_users_mistake_is_the_end(host):
    assert exits(host, 1, 2, 0) == "ended 2"
    assert (host.folder / "tries").read_text().count("\n") == 2


def test_no_more_tries_than_that(host):
    assert exits(host, *[1] * 9, tries=3) == "ended 1"
    assert (host.folder / "tries").read_text().count("\n") == 3


def test_count_begins_anew_after_a_long_try(host):
    host.env["PODGCM_HEALTHY"] = "0"
    assert exits(host, *[1] * 6, 0, tries=2) == "ended 0"


def test_sigterm_goes_through_to_the_command(host):
    assert host("start", "9", "", "bash", host.script(WAITING)).returncode == 0
    host.until("running 1")
    host.ready()
    os.kill(host.pid("loop"), signal.SIGTERM)
    host.until("ended 75")  # and not again, although 75 is
    assert (host.folder / "saved").exists()
    # A second start begins again.
    (host.folder / "saved").unlink()
    assert host("start", "9", "", "bash", host.script(WAITING)).returncode == 0
    host.ready()
    assert host("stop").returncode == 0
    host.until("stopped 75")
    assert (host.folder / "saved").exists()


def test_sigterm_between_tries(host):
    host.env["PODGCM_PAUSE"] = "60"
    assert host("start", "9", "", "sh", "-c", "exit 1").returncode == 0
    end = time.monotonic() + 60
    while "exit code 1" not in host("log").stdout:
        assert time.monotonic() < end
    assert host("stop").returncode == 0
    host.until("stopped 75")


def test_sigterm_before_it_is_heeded(host):
    """Such as while the command loads its modules."""
    assert host("start", "9", "", "sleep", "60").returncode == 0
    host.until("running 1")
    os.kill(host.pid("loop"), signal.SIGTERM)
    host.until("ended 75")


def test_one_at_a_time(host):
    waiting = host.script(WAITING)
    assert host("start", "9", "", "bash", waiting).returncode == 0
    host.ready()
    again = host("start", "9", "", "bash", waiting)
    assert (again.returncode, again.stdout) == (0, "it runs already\n")
    other = host("start", "9", "", "true")
    assert other.returncode == 2
    assert other.stderr.startswith("error: another command runs")
    assert "it runs already" in host("install").stdout  # and is not replaced
    # Without its loop the command still counts as running: it holds the TPU.
    os.kill(host.pid("loop"), signal.SIGKILL)
    time.sleep(0.1)
    assert host.state() == "running 1"
    assert host("start", "9", "", "true").returncode == 2
    assert host("stop").returncode == 0
    host.until("lost")
    assert (host.folder / "saved").exists()


def test_killed_host(host):
    assert host("start", "9", "", "sleep", "60").returncode == 0
    for name in ("loop", "pid"):
        os.kill(host.pid(name), signal.SIGKILL)
    host.until("lost")
    assert host("signal", "USR1").returncode == 1


def test_signal_reaches_the_command(host):
    command = host.script("trap 'touch dumped' USR1\nwhile :; do sleep 0.02; done")
    assert host("start", "9", "", "bash", command).returncode == 0
    time.sleep(0.2)
    assert host("signal", "USR1").returncode == 0
    end = time.monotonic() + 60
    while not (host.folder / "dumped").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert host.state() == "running 1"


def test_log_is_copied(host, tmp_path):
    """Also while the command runs; without the bucket it runs all the same."""
    (tmp_path / "bin").mkdir()
    gcloud = tmp_path / "bin/gcloud"
    gcloud.write_text(f'#!/bin/sh\n[ "$*" != "" ] && cp "$3" {tmp_path}/copied\n')
    gcloud.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    command = host.script("echo hello; sleep 0.5; echo bye; exit 0")
    assert host("start", "9", "gs://b/logs", "bash", command).returncode == 0
    copied = tmp_path / "copied"
    end = time.monotonic() + 60
    while not copied.exists() or "hello" not in copied.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "bye" not in copied.read_text()
    host.until("ended 0")
    assert "exit code 0" in copied.read_text()
    gcloud.write_text("#!/bin/sh\nexit 1\n")
    assert exits(host, 1, 0, logs="gs://b/logs") == "ended 0"


def test_usage(host):
    result = host()
    assert result.returncode == 2
    assert "worker.sh start TRIES LOGS COMMAND..." in result.stderr
