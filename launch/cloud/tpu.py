"""TPU VMs by queued resources: every `gcloud` command about one of them.

A queued resource is one slice or several (nodes), each of one host or several
(workers). `queued-resources ssh --node=all --worker=all` reaches all of them.
"""

import dataclasses
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.cloud.commands import CloudError, Shell
from launch.cloud.slices import Slice, hosts_of, require_queued
from pipeline.errors import UserError

PROJECT = Path(__file__).parents[2]
# What a source archive holds: the package, and what installs it.
SOURCE = (
    "LICENSE",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
    "configs",
    "launch",
    "model",
    "pipeline",
    "train",
)
# Who logs in on hosts, whoever it is here: another one finds the same run there.
_USER = "podgcm"
# Of a host, in that user's home folder.
_FOLDER = "podgcm"
_WORKER = f"bash {_FOLDER}/source/launch/cloud/worker.sh"
_DONE = "podgcm-done"
_COORDINATOR_PORT = 8482  # JAX's own; older ones used 8476
SSH_TRIES = 4
_API_TRIES = 6


@dataclasses.dataclass(frozen=True)
class Resource:
    """A queued resource, as the cloud tells of it.

    Attributes:
      state: such as `WAITING_FOR_RESOURCES`, `ACTIVE` or `SUSPENDED`.
      hosts: of all its slices.
      error: why it failed, if it did.
    """

    state: str
    hosts: int
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Worker:
    """How the command does on one host, as its `worker.sh status` says.

    Attributes:
      host: its name.
      state: `absent`, `running`, `lost` (killed with its loop), `ended` or `stopped`.
      number: of the try, if running; the exit code, if ended or stopped.
    """

    host: str
    state: str
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class QueuedResource:
    """Commands about one queued resource.

    Attributes:
      shell: runs or prints them.
      name: of the resource.
      zone: such as `us-east5-a`.
      project: of the cloud; that of gcloud's configuration if None.
      batch_size: how many hosts are reached by ssh at a time.
      internal_ip: reach them by their internal addresses.
    """

    shell: Shell
    name: str
    zone: str
    project: str | None = None
    batch_size: int = 64
    internal_ip: bool = False

    def create(
        self, slice_: Slice, slices: int, flags: Sequence[str], spot: bool
    ) -> None:
        """Asks for the slices, once; they are there when its state is ACTIVE.

        Args:
          slice_: of which kind.
          slices: how many.
          flags: further ones of `queued-resources create`.
          spot: cheaper machines, which may be taken away at any time.

        Raises:
          CloudError: if the request is refused.
          UserError: if a queued resource cannot have that shape.
        """
        require_queued(slice_)
        command = [
            *self._gcloud("create"),
            f"--accelerator-type={slice_.accelerator_type}",
            *([] if _has(flags, "--runtime-version") else [_runtime(slice_)]),
            *(
                [f"--node-id={self.name}-0"]
                if slices == 1
                else [f"--node-count={slices}", f"--node-prefix={self.name}"]
            ),
            *(["--spot"] if spot else []),
            *flags,
        ]
        try:
            self.shell.run(command, tries=_API_TRIES)
        except CloudError as error:
            # Such as by a try whose answer was lost.
            if "ALREADY_EXISTS" not in str(error):
                raise
            self.shell.note(f"{self.name} is asked for already")

    def describe(self) -> Resource | None:
        """What the cloud knows of it; None if there is none.

        Raises:
          CloudError: if the cloud cannot be asked.
        """
        try:
            text = self.shell.run(
                [*self._gcloud("describe"), "--format=json"], tries=_API_TRIES
            )
        except CloudError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise
        if self.shell.dry_run:
            return None
        found = json.loads(text)
        nodes = found.get("tpu", {}).get("nodeSpec", [])
        state = found.get("state", {})
        hosts = 0
        for node in nodes:
            # One with a name, or as many as were asked for.
            several = {} if "nodeId" in node else node.get("multisliceParams", {})
            count = int(several.get("nodeCount", 1))
            hosts += count * hosts_of(node["node"]["acceleratorType"])
        return Resource(
            state=state.get("state", "STATE_UNSPECIFIED"),
            hosts=hosts,
            error=state.get("failedData", {}).get("error", {}).get("message", ""),
        )

    def hosts(self) -> int:
        """How many hosts it has; 0 in a dry run.

        Raises:
          CloudError: if there is no such resource, or the cloud cannot be asked.
        """
        found = self.describe()
        if self.shell.dry_run:
            return 0
        if found is None:
            raise CloudError(f"there is no queued resource {self.name}: create it")
        return found.hosts

    def delete(self) -> None:
        """Deletes it with its machines; nothing else stops their cost.

        Raises:
          CloudError: if that fails.
        """
        command = [*self._gcloud("delete"), "--force"]
        try:
            self.shell.run(command, tries=_API_TRIES)
        except CloudError as error:
            if "NOT_FOUND" not in str(error):
                raise CloudError(
                    f"{self.name} is not deleted, and costs until it is: "
                    f"{error}; run: {shlex.join(command)}"
                ) from None

    def install(self, archive: str, hosts: int) -> None:
        """Installs the source in an archive on all hosts.

        Args:
          archive: an address such as gs://BUCKET/podgcm.tar.gz.
          hosts: how many there are.

        Raises:
          CloudError: if it fails on any.
        """
        new = f"{_FOLDER}/new"
        self.ssh(
            f"rm -rf {new} && mkdir -p {new} && "
            f"gcloud storage cp {shlex.quote(archive)} {new}.tar.gz --quiet && "
            f"tar -xzf {new}.tar.gz -C {new} && "
            f"bash {new}/launch/cloud/worker.sh install",
            hosts,
        )

    def start(self, command: Sequence[str], tries: int, logs: str, hosts: int) -> None:
        """Starts a command on all hosts, in the background; once, however often asked.

        Args:
          command: such as `podgcm train ...`.
          tries: how often each host runs it again after failures in a row.
          logs: folder for what the hosts print, such as gs://BUCKET/RUN/logs.
          hosts: how many there are.

        Raises:
          CloudError: if it fails on any, or another command runs there.
        """
        words = shlex.join([str(tries), logs, *command])
        self.ssh(f"{_WORKER} start {words}", hosts)

    def workers(self, hosts: int, tries: int = 1) -> list[Worker]:
        """How the command does on every host.

        Raises:
          CloudError: if one does not answer.
        """
        # Where nothing is installed yet, the host itself answers.
        status = f"{_WORKER} status || echo podgcm-worker $(hostname) absent"
        found = []
        for line in self.ssh(status, hosts, tries).splitlines():
            match line.split():
                case ["podgcm-worker", host, state]:
                    found.append(Worker(host, state))
                case ["podgcm-worker", host, state, number]:
                    found.append(Worker(host, state, int(number)))
        return sorted(found, key=lambda worker: worker.host)

    def log(self, lines: int) -> str:
        """The end of what the first host prints.

        Raises:
          CloudError: if it cannot be reached.
        """
        return self.shell.run(self._ssh(f"{_WORKER} log {lines}", everywhere=False))

    def follow_log(self) -> int:
        """Shows what the first host prints until interrupted; gcloud's exit code."""
        tail = f"tail -n 100 -F {_FOLDER}/log"
        return self.shell.stream(self._ssh(tail, everywhere=False))

    def signal(self, name: str, hosts: int) -> None:
        """Sends a signal such as USR1 to the command on all hosts.

        Raises:
          CloudError: if it runs not on all of them.
        """
        self.ssh(f"{_WORKER} signal {name}", hosts, tries=1)

    def stop(self, hosts: int) -> None:
        """Lets the command save and end on all hosts, and not start again.

        Raises:
          CloudError: if a host cannot be reached.
        """
        self.ssh(f"{_WORKER} stop", hosts)

    def ssh(self, command: str, hosts: int, tries: int = SSH_TRIES) -> str:
        """Runs a shell command on all hosts; what they print.

        Each of them says when it is done: gcloud leaves out those that it cannot
        reach, and ends with 0 all the same.

        Raises:
          CloudError: if it fails on any, or one cannot be reached.
        """

        def complaint(output: str) -> str:
            done = output.count(_DONE)
            return f"{done} of {hosts} hosts answer" if done < hosts else ""

        return self.shell.run(
            self._ssh(f"{command} && echo {_DONE} $(hostname)", everywhere=True),
            tries=tries,
            complaint=complaint,
        )

    def _ssh(self, command: str, everywhere: bool) -> list[str]:
        which = "all" if everywhere else "0"
        return [
            *self._gcloud("ssh", f"{_USER}@{self.name}"),
            *(["--internal-ip"] if self.internal_ip else []),
            *(f"--node={which}", f"--worker={which}"),
            *([f"--batch-size={self.batch_size}"] if everywhere else []),
            f"--command={command}",
        ]

    def _gcloud(self, verb: str, name: str | None = None) -> list[str]:
        return [
            *("gcloud", "compute", "tpus", "queued-resources", verb, name or self.name),
            f"--zone={self.zone}",
            *([f"--project={self.project}"] if self.project else []),
            "--quiet",
        ]


def check_source(source: str) -> None:
    """Raises UserError if a folder does not hold the project's source."""
    for name in SOURCE:
        if not os.path.exists(os.path.join(source, name)):
            raise UserError(
                f"--source={source} lacks {name}: give the folder of PodGCM's source, "
                "or an archive of it such as gs://BUCKET/podgcm.tar.gz"
            )


def upload(shell: Shell, source: str, archive: str, replace: bool) -> None:
    """Packs a folder with the project's source, and puts it where hosts can read it.

    Args:
      shell: runs or prints the commands.
      source: the folder.
      archive: where to put it: gs://...
      replace: what is there already.

    Raises:
      CloudError: if it cannot be put there.
    """
    folder = "/tmp" if shell.dry_run else tempfile.mkdtemp()
    packed = os.path.join(folder, "podgcm.tar.gz")
    shell.run(
        [
            *("tar", "--create", "--gzip", f"--file={packed}", f"--directory={source}"),
            *("--exclude=__pycache__", *SOURCE),
        ]
    )
    keep = [] if replace else ["--no-clobber"]
    shell.run(
        ["gcloud", "storage", "cp", packed, archive, "--quiet", *keep],
        tries=_API_TRIES,
    )


def firewall_rule(network: str, project: str | None, port: int | None) -> list[str]:
    """The command that lets slices find each other's coordinator."""
    ports = ",".join(f"tcp:{p}" for p in sorted({8476, port or _COORDINATOR_PORT}))
    return [
        *("gcloud", "compute", "firewall-rules", "create", "podgcm-coordinator"),
        *(f"--network={network}", f"--allow={ports}", "--source-ranges=10.0.0.0/8"),
        *([f"--project={project}"] if project else []),
    ]


def _runtime(slice_: Slice) -> str:
    return f"--runtime-version={slice_.runtime_version}"


def _has(flags: Sequence[str], name: str) -> bool:
    return any(flag.partition("=")[0] == name for flag in flags)
