"""The flags of `podgcm launch`, and what each of its actions does."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence

from launch.cloud import dataflow, gke, supervise, tpu
from launch.cloud.commands import Shell
from launch.cloud.slices import Slice, parse_slice
from launch.cloud.training import (
    check_mesh,
    parse_command,
    read_config,
    refuse_dry_run,
)
from pipeline.errors import UserError
from train import exit_codes

_TPU = {
    "run": "all of it: create, install, start, watch, again after a preemption, delete",
    "create": "ask for the machines",
    "start": "wait for the machines, install, and start the command on all hosts",
    "watch": "show how it does, until it ends",
    "logs": "follow what the first host prints",
    "profile": "record an xprof trace of the next steps into WORKDIR/profile",
    "dump-stacks": "where every host is, to debug a hang",
    "stop": "let it save and end; the machines stay",
    "delete": "delete the machines; nothing else ends their cost",
}
_GKE = {
    "build": "build the container",
    "create": "create a node pool for each slice",
    "manifest": "print the JobSet",
    "start": "start the JobSet",
    **{name: _TPU[name] for name in ("watch", "logs", "profile", "dump-stacks")},
    "delete": "delete the JobSet, and with --cluster its node pools",
}
# What these wait for goes on without them.
_WATCHERS = (("tpu", "run"), ("tpu", "start"), ("tpu", "watch"), ("gke", "watch"))
_DATAFLOW = {
    "build": "build the container of the workers",
    "run": "preprocess; the same command goes on with what is not done",
    "list": "the jobs that are not over",
    "cancel": "cancel them; what is done stays",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds places and their actions: `podgcm launch PLACE ACTION`."""
    places = parser.add_subparsers(dest="place", required=True, metavar="PLACE")
    for place, summary, actions, add in (
        ("tpu", "train on TPU VMs (queued resources)", _TPU, _add_tpu),
        ("gke", "train on GKE (a JobSet)", _GKE, _add_gke),
        ("dataflow", "preprocess on Dataflow", _DATAFLOW, _add_dataflow),
    ):
        where = places.add_parser(place, help=summary, description=summary + ".")
        names = where.add_subparsers(dest="action", required=True, metavar="ACTION")
        for action, text in actions.items():
            one = names.add_parser(action, help=text, description=text + ".")
            if action != "build":
                one.add_argument("--name", required=True, help="of the run")
            one.add_argument(
                "--dry_run",
                action="store_true",
                help="print the commands, run none; it stands before a lone --",
            )
            add(one, action)


def run(args: argparse.Namespace) -> int:
    """Does what was asked for; the exit code (train/exit_codes.py).

    Raises:
      CloudError: if the cloud does not do it.
      Lost: if machines that were watched are gone; `run` brings them back.
      UserError: if it cannot be done as it was asked for.
    """
    shell = Shell(args.dry_run)
    actions: dict[str, Callable[[argparse.Namespace, Shell], int | None]] = {
        "tpu": _run_tpu,
        "gke": _run_gke,
        "dataflow": _run_dataflow,
    }
    try:
        return actions[args.place](args, shell) or exit_codes.FINISHED
    except KeyboardInterrupt:
        if (args.place, args.action) in _WATCHERS:
            print(
                f"podgcm launch: {args.name} goes on without this; the same command "
                "comes back to it",
                file=sys.stderr,
            )
        raise


# --- TPU VMs -------------------------------------------------------------------------


def _add_tpu(parser: argparse.ArgumentParser, action: str) -> None:
    add = parser.add_argument
    add("--zone", required=True, help="such as us-east5-a")
    add("--project", help="(default: that of gcloud's configuration)")
    add("--batch_size", type=_at_least(1), default=64, help="hosts reached at a time")
    add("--internal_ip", action="store_true", help="reach hosts by internal addresses")
    if action in ("run", "create"):
        _add_slices(parser)
        add(
            "--flag",
            action="append",
            default=[],
            help="of `queued-resources create`, such as --flag=--reserved or "
            "--flag=--valid-until-duration=6h; may be given several times",
        )
    if action in ("run", "start"):
        add(
            "--source",
            default=str(tpu.PROJECT),
            help="what is installed: a folder with PodGCM's source, or an archive of "
            "it such as gs://BUCKET/podgcm.tar.gz (default: where this one runs from)",
        )
        add(
            "--tries",
            type=_at_least(1),
            default=10,
            help="of the command on its hosts, in a row; one that lasted an hour "
            "begins the count anew (default 10)",
        )
        add("--env", action="append", default=[], metavar="NAME=VALUE")
        add("--coordinator_port", type=_at_least(1), help="(default: JAX's own, 8482)")
        _add_command(parser)
    if action in ("run", "start", "watch"):
        add("--poll", type=_at_least(1), default=60, help="seconds (default 60)")
    if action == "run":
        add(
            "--recoveries",
            type=_at_least(0),
            default=20,
            help="how often machines that were taken away are replaced (default 20)",
        )
        add("--keep", action="store_true", help="the machines, after it has finished")


def _run_tpu(args: argparse.Namespace, shell: Shell) -> int | None:
    resource = tpu.QueuedResource(
        shell, args.name, args.zone, args.project, args.batch_size, args.internal_ip
    )
    tpu_slice = parse_slice(args.topology) if "topology" in args else None
    if args.action in ("run", "start"):
        source = None if args.source.startswith("gs://") else args.source
        if source:
            tpu.check_source(source)
        workdir = _check_command(args, source, tpu_slice)
        archive = f"{workdir}/launch/podgcm.tar.gz" if source else args.source
        command = _with_env(args)

    def create() -> None:
        resource.create(tpu_slice, args.slices, args.flag, args.spot)
        if args.slices > 1:
            network = next(
                (f.partition("=")[2] for f in args.flag if f.startswith("--network=")),
                "default",
            )
            port = getattr(args, "coordinator_port", None)
            rule = shlex.join(tpu.firewall_rule(network, args.project, port))
            shell.note(f"if nothing lets the slices meet yet: {rule}")

    def upload(replace: bool) -> None:
        if source:
            tpu.upload(shell, source, archive, replace)

    def install(hosts: int) -> None:
        resource.install(archive, hosts)

    def start(hosts: int) -> None:
        resource.start(command, args.tries, f"{workdir}/logs", hosts)

    def supervised() -> supervise.Run:
        return supervise.Run(resource, args.poll, upload, create, install, start)

    match args.action:
        case "run":
            return supervise.supervise(supervised(), args.recoveries, args.keep)
        case "create":
            create()
        case "start":
            supervise.start(supervised())
        case "watch":
            return supervise.watch(resource, args.poll)
        case "logs":
            return resource.follow_log()
        case "profile":
            resource.signal("USR2", resource.hosts())
        case "dump-stacks":
            resource.signal("USR1", resource.hosts())
            shell.note("the first host; the others are in WORKDIR/logs in a minute")
            print(resource.log(lines=200), end="")
        case "stop":
            resource.stop(resource.hosts())
        case "delete":
            resource.delete()
    return None


def _with_env(args: argparse.Namespace) -> list[str]:
    """The command, with its environment."""
    env = {"JAX_PLATFORMS": "tpu,cpu"}  # no TPU is an error
    if args.coordinator_port:
        env["JAX_COORDINATOR_PORT"] = str(args.coordinator_port)
    env |= _parse_env(args.env)
    return ["env", *(f"{k}={v}" for k, v in env.items()), "podgcm", *args.command_line]


# --- GKE -----------------------------------------------------------------------------


def _add_gke(parser: argparse.ArgumentParser, action: str) -> None:
    add = parser.add_argument
    if action in ("build", "manifest", "start"):
        add("--image", required=True, help="such as REGION-docker.pkg.dev/P/R/train:1")
    if action == "build":
        _add_builder(parser)
    if action in ("create", "manifest", "start"):
        _add_slices(parser)
    if action in ("create", "delete"):
        required = action == "create"
        add("--cluster", required=required, help="of the node pools")
        add("--location", required=required, help="its zone or region")
        add("--project", help="(default: that of gcloud's configuration)")
    if action == "create":
        add("--flag", action="append", default=[], help="of `node-pools create`")
    if action in ("manifest", "start"):
        add(
            "--restarts",
            type=_at_least(0),
            default=50,
            help="after failures; preemptions do not count (default 50)",
        )
        add(
            "--grace",
            type=_at_least(1),
            default=120,
            help="seconds to save in (default 120)",
        )
        add("--queue", help="of Kueue")
        add("--shm", default="16Gi", help="size of /dev/shm (default 16Gi)")
        add("--env", action="append", default=[], metavar="NAME=VALUE")
        _add_command(parser)
    if action not in ("build", "create"):
        add("--namespace", default="default")
    if action == "watch":
        add("--poll", type=_at_least(1), default=60, help="seconds (default 60)")


def _run_gke(args: argparse.Namespace, shell: Shell) -> int | None:
    if args.action == "build":
        _build(args, shell, dataflow.TRAIN_CONTAINER)
        return None
    cluster = gke.Cluster(shell, args.name, getattr(args, "namespace", "default"))
    pools = None
    if args.action in ("create", "delete"):
        if bool(args.cluster) != bool(args.location):
            raise UserError("--cluster and --location, its zone or region, go together")
    if getattr(args, "cluster", None):
        pools = gke.NodePools(
            shell, args.name, args.cluster, args.location, args.project
        )
    match args.action:
        case "create":
            slice_ = parse_slice(args.topology)
            pools.create(slice_, args.slices, args.spot, args.flag)
        case "manifest":
            print(gke.to_yaml(gke.manifest(_pods(args))), end="")
        case "start":
            cluster.apply(_pods(args))
        case "watch":
            return cluster.watch(args.poll)
        case "logs":
            return cluster.follow_log()
        case "profile":
            cluster.signal("USR2")
        case "dump-stacks":
            cluster.signal("USR1")
            shell.note("the stacks are in the logs of the pods")
        case "delete":
            cluster.delete()
            if pools:
                pools.delete()
    return None


def _pods(args: argparse.Namespace) -> gke.Pods:
    slice_ = parse_slice(args.topology)
    _check_command(args, None, slice_)
    return gke.Pods(
        name=args.name,
        image=args.image,
        command=["podgcm", *args.command_line],
        slice_=slice_,
        slices=args.slices,
        restarts=args.restarts,
        grace=args.grace,
        spot=args.spot,
        queue=args.queue,
        memory=args.shm,
        env=_parse_env(args.env),
    )


# --- Dataflow ------------------------------------------------------------------------


def _add_dataflow(parser: argparse.ArgumentParser, action: str) -> None:
    add = parser.add_argument
    if action in ("build", "run"):
        add("--image", required=True, help="such as REGION-docker.pkg.dev/P/R/worker:1")
    if action == "build":
        _add_builder(parser)
        return
    add("--project", required=action == "run", help="of the cloud")
    add("--region", required=True, help="such as us-central1")
    if action == "run":
        add("--bucket", required=True, help="for temporary files: gs://BUCKET/FOLDER")
        add(
            "--workers",
            type=_at_least(1),
            default=100,
            help="at most (default 100)",
        )
        add("--machine_type", default="n2-standard-4", help="(default n2-standard-4)")
        add("--flag", action="append", default=[], help="further ones of Beam")
        _add_command(parser, "what follows is of `podgcm preprocess`")


def _run_dataflow(args: argparse.Namespace, shell: Shell) -> int | None:
    match args.action:
        case "build":
            _build(args, shell, dataflow.WORKER_CONTAINER)
        case "run":
            refuse_dry_run(args.command_line)
            command = dataflow.preprocess(
                args.command_line,
                name=args.name,
                project=args.project,
                region=args.region,
                bucket=args.bucket,
                image=args.image,
                workers=args.workers,
                machine_type=args.machine_type,
                flags=args.flag,
            )
            return shell.stream(command)
        case "list":
            for job in dataflow.list_jobs(shell, args.name, args.region, args.project):
                print(job["id"], job["name"], job["state"], job["creationTime"])
        case "cancel":
            dataflow.cancel(shell, args.name, args.region, args.project)
    return None


# --- What they share -----------------------------------------------------------------


def _at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number on the command line."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text} is no whole number of at least {least}"
            )
        return int(text)

    return parse


def _add_slices(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--topology", required=True, help="of a slice, such as v5p:4x4x8 or v5e:4x4")
    add("--slices", type=_at_least(1), default=1, help="how many (default 1)")
    add("--spot", action="store_true", help="cheaper, and may be taken away any time")


def _add_builder(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--builder", choices=("cloud", "docker"), default="cloud")
    add("--project", help="(default: that of gcloud's configuration)")
    add(
        "--flag",
        action="append",
        default=[],
        help="of `gcloud builds submit` (or of `docker build`), such as "
        "--flag=--service-account=projects/PROJECT/serviceAccounts/ADDRESS",
    )


def _build(args: argparse.Namespace, shell: Shell, container: str) -> None:
    dataflow.build(shell, container, args.image, args.builder, args.project, args.flag)


def _add_command(
    parser: argparse.ArgumentParser,
    text: str = "such as train --config=configs/tl255.py --workdir=gs://BUCKET/RUN",
) -> None:
    parser.add_argument(
        "command_line", nargs="*", metavar="-- COMMAND", help=f"after a lone --: {text}"
    )


def _check_command(
    args: argparse.Namespace, source: str | None, slice_: Slice | None
) -> str:
    """Checks what stands after the lone --; the run's folder.

    Args:
      args: of the launch.
      source: the folder that hosts get, if they get one.
      slice_: what is to be rented; None if that is done already.

    Raises:
      UserError: if hosts could not run it, or it does not fit them.
    """
    command = parse_command(args.command_line)
    config = read_config(command, source)
    if config and slice_:
        check_mesh(config, slice_, args.slices)
    return command.workdir.rstrip("/")


def _parse_env(items: Sequence[str]) -> dict[str, str]:
    for item in items:
        if not re.match(r"[A-Za-z_]\w*=", item):
            raise UserError(f"--env={item}: write NAME=VALUE")
    return dict(item.split("=", 1) for item in items)
