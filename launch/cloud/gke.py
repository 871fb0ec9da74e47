"""Training on GKE: a JobSet, and the `kubectl` commands about it.

Each slice is a Job of the JobSet, each of its hosts a pod. Kubernetes starts all of
them again when one fails, by how it ended (train/exit_codes.py): a user's mistake ends
the JobSet, a preemption does not count, and anything else counts.
"""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from launch.cloud.commands import CloudError, Shell
from launch.cloud.slices import Slice
from pipeline.errors import UserError
from train import exit_codes

_CONTAINER = "train"
_JOB = "slice"
_LABEL = "jobset.sigs.k8s.io/jobset-name"
# Of libtpu, of its exchanges between slices, of JAX's coordinator, of metrics.
_PORTS = {"tpu": 8471, "slices": 8080, "coordinator": 8482, "metrics": 8431}
_ENDS = ("Completed", "Failed")
# Why a JobSet has failed, if by a rule with FailJobSet, of which there is one.
_USER_ERROR_REASON = "FailJobSetFailurePolicyAction"


@dataclasses.dataclass(frozen=True)
class Pods:
    """What a JobSet is made of.

    Attributes:
      name: of the JobSet; its pods are `NAME-slice-SLICE-HOST-...`.
      image: of the container, built with launch/cloud/Dockerfile.
      command: such as `podgcm train ...`.
      slice_: one slice.
      slices: how many.
      restarts: how often failures start it again; preemptions do not count.
      grace: seconds from SIGTERM to SIGKILL.
      spot: run on Spot machines.
      queue: of Kueue, if it admits the JobSet.
      memory: for /dev/shm, such as `16Gi`.
      env: further environment variables.
    """

    name: str
    image: str
    command: Sequence[str]
    slice_: Slice
    slices: int = 1
    restarts: int = 50
    grace: int = 120
    spot: bool = False
    queue: str | None = None
    memory: str = "16Gi"
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # Names of pods, with what is appended, are names of the DNS.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise UserError(
                f"--name={self.name}: write up to 40 of a-z, 0-9, -, a letter first"
            )


def manifest(pods: Pods) -> dict[str, Any]:
    """The JobSet, to be written as YAML or JSON."""
    labels = {"kueue.x-k8s.io/queue-name": pods.queue} if pods.queue else {}
    hosts = pods.slice_.hosts
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": pods.name,
            "labels": {"app.kubernetes.io/name": "podgcm", **labels},
            # A Job has a node pool, which is a slice, for itself.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                    "cloud.google.com/gke-nodepool"
                )
            },
        },
        "spec": {
            # The headless service by which pods find each other, also while starting.
            "network": {
                "enableDNSHostnames": True,
                "publishNotReadyAddresses": True,
            },
            "failurePolicy": _failure_policy(pods.restarts),
            "replicatedJobs": [
                {
                    "name": _JOB,
                    "replicas": pods.slices,
                    "template": {
                        "spec": {
                            "completionMode": "Indexed",
                            "completions": hosts,
                            "parallelism": hosts,
                            "backoffLimit": 0,  # all pods start again, or none
                            "podFailurePolicy": _pod_failure_policy(),
                            "template": {"spec": _pod(pods)},
                        }
                    },
                }
            ],
        },
    }


def _failure_policy(restarts: int) -> dict[str, Any]:
    """By why a Job has failed; a pattern is of its pod failure policy's message."""
    reasons = {"onJobFailureReasons": ["PodFailurePolicy"]}
    code = exit_codes.USER_ERROR
    return {
        "maxRestarts": restarts,
        "rules": [
            {
                "name": "userError",
                "action": "FailJobSet",
                **reasons,
                "onJobFailureMessagePatterns": [f".*exit code {code} matching.*"],
            },
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                **reasons,
            },
            {"name": "failed", "action": "RestartJobSet"},
        ],
    }


def _pod_failure_policy() -> dict[str, Any]:
    """What makes a Job fail with a reason of its own; other failures just count."""

    def exit_code(code: int) -> dict[str, Any]:
        return {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": _CONTAINER,
                "operator": "In",
                "values": [code],
            },
        }

    disrupted = {"type": "DisruptionTarget", "status": "True"}  # the node is taken away
    return {
        "rules": [
            exit_code(exit_codes.USER_ERROR),
            exit_code(exit_codes.PREEMPTED),
            {"action": "FailJob", "onPodConditions": [disrupted]},
        ]
    }


def _pod(pods: Pods) -> dict[str, Any]:
    slice_ = pods.slice_
    selector = {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": slice_.topology,
    }
    tpus = {"google.com/tpu": slice_.chips_per_host}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pods.grace,
        # Exchanges between slices do not pass a bridge. Such a pod acts as the service
        # account of its node, whatever that of Kubernetes may do.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector,
        "containers": [
            {
                "name": _CONTAINER,
                "image": pods.image,
                "imagePullPolicy": "Always",  # a tag may have been built anew
                # Without a shell, so that signals reach it.
                "command": list(pods.command),
                "env": [
                    {"name": name, "value": value}
                    for name, value in {
                        "JAX_PLATFORMS": "tpu,cpu",  # no TPU is an error
                        **pods.env,
                    }.items()
                ],
                "ports": [
                    {"name": name, "containerPort": port, "protocol": "TCP"}
                    for name, port in _PORTS.items()
                ],
                "resources": {"requests": tpus, "limits": tpus},
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": pods.memory},
            }
        ],
    }
    if pods.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return spec


def to_yaml(document: Mapping[str, Any]) -> str:
    import yaml

    # Copied, so that nothing in it is one object twice, which YAML would show.
    return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, width=88)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Commands about a JobSet in the cluster that `kubectl` is set to.

    Attributes:
      shell: runs or prints them.
      name: of the JobSet.
      namespace: that it is in.
    """

    shell: Shell
    name: str
    namespace: str = "default"

    def apply(self, pods: Pods) -> None:
        """Starts a JobSet; one that is there already, and the same, goes on.

        Raises:
          CloudError: if it is refused, such as for a field that an old JobSet lacks.
          UserError: if one of this name has ended: it would not start again.
        """
        command = [*self._kubectl("get"), "jobset", self.name, "--output=json"]
        text = self.shell.run([*command, "--ignore-not-found"], tries=3)
        end = _end(json.loads(text).get("status", {})) if text.strip() else None
        if end:
            raise UserError(
                f"the JobSet {self.name} has ended ({end['type']}): delete it first, "
                f"by podgcm launch gke delete --name={self.name}"
            )
        done = self.shell.run(
            [*self._kubectl("apply"), "--validate=strict", "--filename=-"],
            stdin=to_yaml(manifest(pods)),
            tries=3,
        )
        if not self.shell.dry_run:
            self.shell.note(done.rstrip())  # such as created, or unchanged

    def watch(self, poll: float) -> int:
        """Shows how the JobSet does until it has ended; the exit code of the run.

        Raises:
          CloudError: if there is none.
        """
        self.shell.note(f"every {poll:g} s, until it has ended")
        command = [*self._kubectl("get"), "jobset", self.name, "--output=json"]
        last = None
        while True:
            text = self.shell.run(command, tries=6)
            if self.shell.dry_run:
                return exit_codes.FINISHED
            status = json.loads(text).get("status", {})
            summary = _summary(status)
            if summary != last:
                self.shell.note(f"{self.name}: {summary}")
                last = summary
            end = _end(status)
            if end is None:
                time.sleep(poll)
                continue
            if end["type"] == "Completed":
                return exit_codes.FINISHED
            self.shell.note(end.get("message", ""))
            if end.get("reason") == _USER_ERROR_REASON:
                return exit_codes.USER_ERROR
            return exit_codes.FAILED

    def follow_log(self) -> int:
        """Shows what the first pod prints until interrupted; kubectl's exit code."""
        first = (
            f"{_LABEL}={self.name},jobset.sigs.k8s.io/job-index=0,"
            "batch.kubernetes.io/job-completion-index=0"
        )
        flags = ["--tail=100", "--follow"]
        return self.shell.stream(
            [*self._kubectl("logs"), f"--selector={first}", *flags]
        )

    def signal(self, name: str) -> None:
        """Sends a signal such as USR1 to the command in all pods.

        Raises:
          CloudError: if a pod cannot be reached; the others are signalled all the same.
        """
        pods, errors = self._pods(), []
        for pod in pods:
            # The command is the container's first process.
            kill = ["--", "sh", "-c", f"kill -{name} 1"]
            try:
                self.shell.run([*self._kubectl("exec"), pod, *kill])
            except CloudError as error:
                errors.append(f"{pod}: {error}")
        if errors:
            raise CloudError(
                f"{len(errors)} of {len(pods)} pods were not reached: {errors[0]}"
            )

    def delete(self) -> None:
        """Deletes the JobSet with its pods; node pools stay, and cost.

        Raises:
          CloudError: if that fails.
        """
        flags = ["jobset", self.name, "--ignore-not-found", "--wait"]
        self.shell.run([*self._kubectl("delete"), *flags], tries=3)

    def _pods(self) -> list[str]:
        text = self.shell.run(
            [
                *self._kubectl("get"),
                *("pods", f"--selector={_LABEL}={self.name}"),
                *("--field-selector=status.phase=Running", "--output=name"),
            ],
            tries=3,
        )
        if self.shell.dry_run:
            self.shell.note("for each of them")
            return ["POD"]
        if not text.split():
            raise CloudError(f"no pod of {self.name} runs")
        return text.split()

    def _kubectl(self, verb: str) -> list[str]:
        return ["kubectl", verb, f"--namespace={self.namespace}"]


@dataclasses.dataclass(frozen=True)
class NodePools:
    """Commands about the node pools of a run, one for each slice: NAME-0, NAME-1, ...

    Attributes:
      shell: runs or prints them.
      name: of the run.
      cluster: that they are in.
      location: its zone or region.
      project: of the cloud; that of gcloud's configuration if None.
    """

    shell: Shell
    name: str
    cluster: str
    location: str
    project: str | None = None

    def create(
        self, slice_: Slice, slices: int, spot: bool, flags: Sequence[str]
    ) -> None:
        """Creates those that are not there.

        Args:
          slice_: what each of them is.
          slices: how many.
          spot: cheaper machines, which may be taken away at any time.
          flags: further ones of `node-pools create`.

        Raises:
          CloudError: if the cloud refuses.
        """
        there = self.names()
        for name in (f"{self.name}-{index}" for index in range(slices)):
            if name in there:
                self.shell.note(f"the node pool {name} is there already")
                continue
            self.shell.run(
                [
                    *self._gcloud("create", name),
                    f"--machine-type={slice_.machine_type}",
                    f"--num-nodes={slice_.hosts}",
                    *(
                        [f"--tpu-topology={slice_.topology}"]
                        if slice_.hosts > 1
                        else []
                    ),
                    # Without it nodes, and so pods, may only read buckets.
                    "--scopes=cloud-platform",
                    *(["--spot"] if spot else []),
                    *flags,
                    "--quiet",
                ]
            )

    def delete(self) -> None:
        """Deletes all of them, however many were created.

        Raises:
          CloudError: if one is not deleted; the others are, all the same.
        """
        names, errors = self.names(), []
        if self.shell.dry_run:
            self.shell.note("for each of them")
            names = [f"{self.name}-0"]
        for name in names:
            try:
                self.shell.run([*self._gcloud("delete", name), "--quiet"], tries=3)
            except CloudError as error:
                errors.append(f"{name} is not deleted, and costs until it is: {error}")
        if errors:
            raise CloudError("; ".join(errors))

    def names(self) -> list[str]:
        """Those that there are; none in a dry run.

        Raises:
          CloudError: if the cloud cannot be asked.
        """
        which = ["--format=value(name)", f"--filter=name~^{self.name}-[0-9]+$"]
        return self.shell.run([*self._gcloud("list"), *which], tries=3).split()

    def _gcloud(self, verb: str, *names: str) -> list[str]:
        return [
            *("gcloud", "container", "node-pools", verb, *names),
            *(f"--cluster={self.cluster}", f"--location={self.location}"),
            *([f"--project={self.project}"] if self.project else []),
        ]


def _end(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The condition by which a JobSet has ended, if it has."""
    for condition in status.get("conditions", []):
        if condition["status"] == "True" and condition["type"] in _ENDS:
            return condition
    return None


def _summary(status: Mapping[str, Any]) -> str:
    restarts = f"{status.get('restarts', 0)} restarts"
    jobs = status.get("replicatedJobsStatus", [])
    counts = [
        f"{sum(job.get(key, 0) for job in jobs)} {key}"
        for key in ("active", "ready", "succeeded", "failed")
    ]
    return f"slices: {', '.join(counts)}; {restarts}"
