"""`podgcm launch gke`: the JobSet against its schema, and a stand-in for `kubectl`."""

import json
import os
import re
import time

import pytest
import yaml

from launch import cli
from launch.cloud import gke
from launch.cloud.slices import parse_slice
from train import exit_codes

# Of as many devices as there are chips.
CONFIG = ("--config=configs/tl255.py", "--config.mesh.lat=-1")
COMMAND = ["--", "train", *CONFIG, "--workdir=gs://b/run"]
START = ["--image=region-docker.pkg.dev/p/r/train:1", "--topology=v5p:4x4x8"]


def manifest(capsys, *flags: str) -> dict:
    """What `launch gke manifest` prints."""
    assert launch("manifest", *START, *flags, *COMMAND) == 0
    return yaml.safe_load(capsys.readouterr().out)


def launch(action: str, *flags: str) -> int:
    """Runs `podgcm launch gke`; its exit code."""
    name = () if action == "build" else ("--name=era5",)
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", "gke", action, *name, *flags])
    return end.value.code


@pytest.mark.parametrize(
    "flags",
    [
        (),
        (
            *("--slices=4", "--spot", "--queue=q", "--shm=32Gi", "--env=A=b c"),
            *("--restarts=7", "--grace=25"),
        ),
    ],
)
def test_schema(capsys, flags):
    """Every field is one of the API's, with its type: JobSet, Job and pod."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    document = manifest(capsys, *flags)
    parsed = models.JobsetV1alpha2JobSet.from_dict(document)
    # Fields that the schema lacks, at any depth, are not in what comes back.
    assert parsed.to_dict() == document
    broken = json.loads(json.dumps(document))
    pod = broken["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["nodeSelectr"] = pod.pop("nodeSelector")
    assert models.JobsetV1alpha2JobSet.from_dict(broken).to_dict() != broken


def test_a_pod_for_each_host_of_each_slice(capsys):
    document = manifest(capsys, "--slices=2", "--spot")
    (job,) = document["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 128 / 4
    assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as a pod failure policy demands
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["command"] == ["podgcm", *COMMAND[1:]]
    ports = [port["containerPort"] for port in container["ports"]]
    assert 8482 in ports and len(set(ports)) == len(ports)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    names = [port["name"] for port in container["ports"]]
    assert all(re.fullmatch("[a-z]([a-z-]{0,13}[a-z])?", name) for name in names)
    text = gke.to_yaml(document)
    assert "&id" not in text and yaml.safe_load(text) == document


def outcome(document: dict, code: int | None) -> str:
    """What Kubernetes would do after a pod ended so; None: its node was taken away.

    As its documentation says: the first rule of the pod failure policy that matches
    fails the Job, with a message; then the first rule of the JobSet that matches.
    """
    (job,) = document["spec"]["replicatedJobs"]
    reason, message = "BackoffLimitExceeded", "Job has reached the backoff limit"
    for index, rule in enumerate(job["template"]["spec"]["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        codes = rule.get("onExitCodes", {"values": []})
        end = f"matching FailJob rule at index {index}"
        if code in codes["values"]:
            assert codes["operator"] == "In"
            reason = "PodFailurePolicy"
            message = f"Container {codes['containerName']} for pod default/era5-0 "
            message += f"failed with exit code {code} {end}"
            break
        conditions = rule.get("onPodConditions", [])
        if (
            code is None
            and {"type": "DisruptionTarget", "status": "True"} in conditions
        ):
            reason = "PodFailurePolicy"
            message = f"Pod default/era5-0 has condition DisruptionTarget {end}"
            break
    for rule in document["spec"]["failurePolicy"]["rules"]:
        reasons = rule.get("onJobFailureReasons", [])
        patterns = rule.get("onJobFailureMessagePatterns", [])
        if reasons and reason not in reasons:
            continue
        if patterns and not any(re.fullmatch(p, message) for p in patterns):
            continue
        return rule["action"]
    return "RestartJobSet"


def test_what_follows_from_how_a_pod_ends(capsys):
    document = manifest(capsys)
    assert outcome(document, exit_codes.USER_ERROR) == "FailJobSet"
    ignore = "RestartJobSetAndIgnoreMaxRestarts"
    assert outcome(document, exit_codes.PREEMPTED) == ignore
    assert outcome(document, None) == ignore
    for code in (1, 22, 42, 134, 137, 143):
        assert outcome(document, code) == "RestartJobSet"
    rules = document["spec"]["failurePolicy"]["rules"]
    for rule in rules:
        assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    # The first that a JobSet older than 0.10 would read in another sense is refused by
    # it, for `apply` demands that every field is known.
    assert "onJobFailureMessagePatterns" in rules[0]


def test_single_hosts(capsys):
    for topology, hosts, chips in (("v5e:2x4", 1, 8), ("v6e:4x4", 4, 4)):
        pods = gke.Pods("era5", "image", ["podgcm"], parse_slice(topology))
        spec = gke.manifest(pods)["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert spec["completions"] == hosts
        (container,) = spec["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"google.com/tpu": chips}


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Stand-ins for kubectl and gcloud that keep their calls.

    `kubectl get` answers with file after file, `kubectl exec` fails for pods that the
    file `unreachable` names, `gcloud ... list` answers with the file `pools`, and fails
    for those that the file `busy` names.
    """
    programs = {
        "kubectl": """
printf '%s\\n' "$*" >>calls
case $1 in
  apply) cat >applied; echo jobset/era5 created ;;
  get)
    cat "get-$(grep -c ^get calls)" 2>/dev/null || [[ $* = *--ignore-not-found* ]] ;;
  exec) ! grep -qsx "$3" unreachable || { echo "error: timeout" >&2; exit 1; } ;;
esac
""",
        "gcloud": """
printf '%s\\n' "$*" >>gcloud-calls
if [ "$3" = list ]; then cat pools; fi
! grep -qsx "$4" busy || { echo "ERROR: $4 is busy" >&2; exit 1; }
""",
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\ncd {tmp_path}{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return tmp_path


def status(*conditions: dict, restarts: int = 0) -> str:
    return json.dumps({"status": {"restarts": restarts, "conditions": conditions}})


def condition(kind: str, reason: str = "", value: str = "True") -> dict:
    return {"type": kind, "status": value, "reason": reason, "message": f"{kind}!"}


def test_start_watch_delete(kubectl, capsys):
    assert launch("start", *START, *COMMAND) == 0
    assert capsys.readouterr().out == "jobset/era5 created\n"
    applied = yaml.safe_load((kubectl / "applied").read_text())
    assert applied == manifest(capsys)
    (kubectl / "get-2").write_text(status(condition("Failed", value="False")))
    (kubectl / "get-3").write_text(status(restarts=1))
    (kubectl / "get-4").write_text(status(condition("Completed")))
    assert launch("watch") == 0
    assert "1 restarts" in capsys.readouterr().out
    assert launch("delete") == 0
    calls = (kubectl / "calls").read_text().splitlines()
    assert "--validate=strict" in calls[1]
    assert calls[-1].startswith("delete --namespace=default jobset era5")


@pytest.mark.parametrize(
    "reason, code",
    [
        ("FailJobSetFailurePolicyAction", exit_codes.USER_ERROR),
        ("ReachedMaxRestarts", exit_codes.FAILED),
    ],
)
def test_failed(kubectl, capsys, reason, code):
    (kubectl / "get-1").write_text(status(condition("Failed", reason)))
    assert launch("watch") == code
    assert "Failed!" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["Completed", "Failed"])
def test_one_that_has_ended_is_not_started(kubectl, capsys, kind):
    (kubectl / "get-1").write_text(status(condition(kind)))
    assert launch("start", *START, *COMMAND) == 2
    error = capsys.readouterr().err
    assert f"era5 has ended ({kind}): delete it first" in error
    assert error.count("\n") == 1 and not (kubectl / "applied").exists()
    (kubectl / "get-2").write_text(status(restarts=3))
    assert launch("start", *START, *COMMAND) == 0


def test_node_pools(kubectl, capsys):
    cluster = ["--cluster=c", "--location=us-central1"]

    def calls() -> list[str]:
        path = kubectl / "gcloud-calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    (kubectl / "pools").write_text("era5-0\n")  # of a creation that was interrupted
    assert launch("create", *START[1:], *cluster, "--slices=2") == 0
    assert "the node pool era5-0 is there already" in capsys.readouterr().out
    listed, created = calls()
    assert "--filter=name~^era5-[0-9]+$" in listed
    assert created.startswith("container node-pools create era5-1 ")
    assert "--scopes=cloud-platform" in created
    # As many are deleted as there are; one that is not does not keep the others.
    (kubectl / "pools").write_text("era5-0\nera5-1\nera5-2\n")
    (kubectl / "busy").write_text("era5-1\n")
    assert launch("delete", *cluster) == 1
    error = capsys.readouterr().err
    assert (
        "era5-1 is not deleted, and costs until it is: gcloud: ERROR: era5-1" in error
    )
    deleted = [call.split()[3] for call in calls()[1:]]
    assert deleted == ["era5-0", *["era5-1"] * 3, "era5-2"]
    # Nothing is done by halves.
    for flag in cluster:
        assert launch("delete", flag) == 2
        assert "--cluster and --location" in capsys.readouterr().err
    assert calls() == []
    assert (kubectl / "calls").read_text().count("delete") == 1


def test_signals_reach_every_pod(kubectl, capsys):
    (kubectl / "get-1").write_text("pod/a\npod/b\n")
    assert launch("dump-stacks") == 0
    calls = (kubectl / "calls").read_text().splitlines()
    assert [call.split(" -- ")[1] for call in calls[1:]] == ["sh -c kill -USR1 1"] * 2
    # Those that can be reached are, also after one that cannot.
    (kubectl / "get-2").write_text("pod/a\npod/b\n")
    (kubectl / "unreachable").write_text("pod/a\n")
    assert launch("dump-stacks") == 1
    error = "1 of 2 pods were not reached: pod/a: kubectl: error: timeout"
    assert error in capsys.readouterr().err
    assert "exec --namespace=default pod/b" in (kubectl / "calls").read_text()
    (kubectl / "calls").unlink()
    (kubectl / "get-1").write_text("")
    assert launch("profile") == 1
    assert capsys.readouterr().err == "podgcm launch: no pod of era5 runs\n"


def test_dry_run_and_mistakes(kubectl, capsys):
    pools = ["--cluster=c", "--location=us-east5-a"]
    for action, flags in {
        "build": ("--image=i", "--builder=docker"),
        "create": (*START[1:], *pools, "--slices=2", "--spot"),
        "start": (*START, *COMMAND),
        **{name: () for name in ("watch", "logs", "profile", "dump-stacks")},
        "delete": pools,
    }.items():
        assert launch(action, "--dry_run", *flags) == 0
        assert capsys.readouterr().out
    assert not (kubectl / "calls").exists()
    for words, flags in {
        "--workdir=gs://BUCKET/RUN": ("--", "train", *CONFIG, "--workdir=/tmp/run"),
        "but v5p:4x4x8 has 128 chips": (*COMMAND, "--config.mesh.lat=4"),
        "before the lone --": (*COMMAND, "--dry_run"),
    }.items():
        assert launch("start", *START, *flags) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    # An image may hold what is not here.
    absent = ("--", "train", "--config=c.py", "--workdir=gs://b/run")
    assert launch("manifest", *START, *absent) == 0
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)["kind"] == "JobSet"
    assert "c.py is not here, so its mesh is not checked" in output.err
    assert not (kubectl / "calls").exists()
    with pytest.raises(SystemExit) as end:
        cli.main(["launch", "gke", "manifest", "--name=Era_5", *START, *COMMAND])
    assert end.value.code == 2
