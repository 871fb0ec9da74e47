"""A stand-in for `gcloud`, and for a cloud of TPU VMs, in a folder of this machine.

    cloud = Cloud(folder, ...)   # puts `gcloud` into folder/bin

Queued resources go through scripted states, buckets are folders, and `ssh` runs its
command in a real shell, once for each host, with the host's own home folder. There,
`podgcm` is a script that ends as it was told. Every call is kept, and calls fail on
demand. The file is also the program itself.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PODGCM = """#!/bin/bash
# Ends as line number TRY of ~/exits says, or its last; `wait` is until SIGTERM.
echo x >>~/count
exit=$(sed -n "$(wc -l <~/count)p" ~/exits)
[ -n "$exit" ] || exit=$(tail -n 1 ~/exits)
echo "podgcm $* -> $exit"
trap 'echo stacks' USR1
trap 'echo saved; exit 75' TERM
while [ "$exit" = wait ]; do sleep 0.02; done
exit "$exit"
"""


class Cloud:
    """A cloud in a folder.

    Args:
      folder: where it is; its program is `folder/bin/gcloud`.
      states: of the queued resource, by creation; each `describe` takes the next one,
        and the last one stays. The first list is of a resource that is there already;
        empty if there is none.
      exits: how `podgcm` ends, by creation, host and try; the last one stays.
      skips: of calls of `ssh` whose command line has this in it: how many leave out the
        last host, and end with 0 all the same, as gcloud does.
      failures: of calls whose command line has this in it: how many fail, and what
        they print.
      accelerator_type: of the resource.
    """

    def __init__(
        self,
        folder: Path,
        states: Sequence[Sequence[str]] = ((), ("ACTIVE",)),
        exits: Sequence[Sequence[Sequence[str]]] = ((), (("0",),)),
        skips: Mapping[str, int] | None = None,
        failures: Mapping[str, tuple[int, str]] | None = None,
        accelerator_type: str = "v5p-8",
    ):
        self.folder = folder
        program = folder / "bin" / "gcloud"
        program.parent.mkdir(parents=True)
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -IS {__file__} {folder} "$@"\n'
        )
        program.chmod(0o755)
        script = {
            "states": states,
            "exits": exits,
            "skips": skips or {},
            "failures": failures or {},
            "accelerator_type": accelerator_type,
        }
        (folder / "script.json").write_text(json.dumps(script))
        if states[0]:
            _create_hosts(folder, script, 0)

    def calls(self) -> list[str]:
        """The calls, each by its verb, or by what `worker.sh` does in it."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [_kind(json.loads(line)) for line in lines]

    def shut_down(self) -> None:
        """Ends what still runs on its hosts."""
        _destroy_hosts(self.folder)


def _kind(args: Sequence[str]) -> str:
    """Such as `create`, `storage` or `start`."""
    if args[3] != "ssh":
        return args[0] if args[0] == "storage" else args[3]
    words = args[-1].split("worker.sh ")[-1].split()
    return words[0]


def _read(folder: Path, name: str, default):
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else default


def _create_hosts(folder: Path, script: dict, creation: int) -> None:
    (folder / "now.json").write_text(json.dumps([creation, 0]))
    for index, exits in enumerate(script["exits"][creation]):
        home = folder / "hosts" / str(index)
        (home / "bin").mkdir(parents=True)
        (home / "podgcm" / "venv" / "bin").mkdir(parents=True)
        for path, text in {
            home / "bin" / "hostname": f"#!/bin/sh\necho host-{creation}-{index}\n",
            home / "podgcm" / "venv" / "bin" / "python": "#!/bin/sh\n",
            home / "podgcm" / "venv" / "bin" / "podgcm": _PODGCM,
        }.items():
            path.write_text(text)
            path.chmod(0o755)
        (home / "exits").write_text("\n".join(exits) + "\n")


def _destroy_hosts(folder: Path) -> None:
    for home in (folder / "hosts").glob("*"):
        for name in ("loop", "pid"):
            path = home / "podgcm" / name
            if path.exists():
                try:
                    os.kill(int(path.read_text()), signal.SIGKILL)
                except ProcessLookupError:
                    pass
    shutil.rmtree(folder / "hosts", ignore_errors=True)


def _describe(folder: Path, script: dict) -> str:
    creation, turn = _read(folder, "now.json", [None, 0])
    if creation is None:
        sys.exit("ERROR: (gcloud.describe) NOT_FOUND: Resource was not found")
    states = script["states"][creation]
    (folder / "now.json").write_text(json.dumps([creation, turn + 1]))
    node = {"acceleratorType": script["accelerator_type"]}
    return json.dumps(
        {
            "state": {"state": states[min(turn, len(states) - 1)]},
            "tpu": {"nodeSpec": [{"node": node, "nodeId": "node"}]},
        }
    )


def _ssh(folder: Path, script: dict, args: Sequence[str]) -> int:
    command = args[-1].removeprefix("--command=")
    everywhere = "--worker=all" in args
    code = 0
    homes = sorted((folder / "hosts").glob("*"))[: None if everywhere else 1]
    if any(_happens(folder, w, count, args) for w, count in script["skips"].items()):
        print("WARNING: Could not prepare all 2 nodes", file=sys.stderr)
        homes.pop()
    for home in homes:
        env = {
            "HOME": str(home),
            "PATH": f"{home}/bin:{folder}/bin:{os.environ['PATH']}",
            "PODGCM_PAUSE": "0",
            "PODGCM_COPY_EVERY": "5",
        }
        result = subprocess.run(["bash", "-c", command], cwd=home, env=env)
        code = code or result.returncode
    return code


def _happens(folder: Path, words: str, count: int, args: Sequence[str]) -> bool:
    """Whether what befalls so many calls with these words befalls this one."""
    done = _read(folder, "happened.json", {})
    if words not in " ".join(args) or done.get(words, 0) >= count:
        return False
    done[words] = done.get(words, 0) + 1
    (folder / "happened.json").write_text(json.dumps(done))
    return True


def _copy(folder: Path, source: str, target: str, keep: bool) -> None:
    paths = [
        folder / "buckets" / path.removeprefix("gs://")
        if path.startswith("gs://")
        else Path(path)
        for path in (source, target)
    ]
    if keep and paths[1].exists():
        return
    paths[1].parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(*paths)


def main(folder: Path, args: Sequence[str]) -> int:
    script = _read(folder, "script.json", {})
    with open(folder / "calls.jsonl", "a") as file:
        if not (args[0] == "storage" and args[2] == "log"):  # copied all the time
            file.write(json.dumps(args) + "\n")
    for words, (count, message) in script["failures"].items():
        if _happens(folder, words, count, args):
            print(message, file=sys.stderr)
            return 1
    if args[0] == "storage":
        _copy(folder, *args[2:4], keep="--no-clobber" in args)
        return 0
    match args[3]:
        case "create":
            created = _read(folder, "created.json", 0) + 1
            (folder / "created.json").write_text(json.dumps(created))
            _create_hosts(folder, script, created)
        case "describe":
            print(_describe(folder, script))
        case "delete":
            (folder / "now.json").unlink(missing_ok=True)
            _destroy_hosts(folder)
        case "ssh":
            return _ssh(folder, script, args)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
