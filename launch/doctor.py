"""`podgcm doctor`: is this machine, or this pod, fit to train, and if not, what to do.

Every process examines itself, then all tell each other what they found. The table is
printed by process 0; what is wrong with another names that one.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from launch import machine
from launch.machine import FAIL, OK, WARN, Finding, probe_path, tpu_chips
from pipeline.errors import UserError
from train import exit_codes

if TYPE_CHECKING:  # their import fails where JAX's does, which is to be told
    from ml_collections import ConfigDict

    from train.experiment import Experiment

_JOIN_SECONDS, _HEARTBEAT_SECONDS = 300.0, 100.0  # without a configuration
_LIMIT_MINUTES = 2.0  # for the devices to answer, and for a collective
_CLOCK_SECONDS = 5.0

Report = dict[str, Finding]  # by the name of the check


def run(
    config: str | None, overrides: Sequence[str], workdir: str | None, as_json: bool
) -> int:
    """Examines, prints, and returns the exit code: USER_ERROR if something fails.

    Args:
      config: a configuration file.
      overrides: of it.
      workdir: of a run that is to be, or to go on.
      as_json: print for machines.

    Raises:
      UserError: if there are overrides, but no configuration.
    """
    if overrides and not config:
        raise UserError(f"--config.{overrides[0]} needs --config=FILE")
    examination = Examination(config, overrides, workdir)
    report = examination.alone()
    if examination.joined:
        report = examination.together(report)
    fit = all(finding.status != FAIL for finding in report.values())
    if not examination.number:
        print(_as_json(report, fit) if as_json else format_report(report, fit))
    sys.stdout.flush()
    if fit:
        return exit_codes.FINISHED
    examination.part()
    return exit_codes.USER_ERROR


def format_report(report: Report, fit: bool) -> str:
    """A line for each finding."""
    lines = []
    for name, finding in report.items():
        todo = f" - {finding.todo}" if finding.todo else ""
        lines.append(f"{finding.status:4}  {name}: {finding.found}{todo}")
    failing = [name for name, finding in report.items() if finding.status == FAIL]
    lines.append("fit to train" if fit else f"not fit to train: {', '.join(failing)}")
    return "\n".join(lines)


def _as_json(report: Report, fit: bool) -> str:
    checks = [{"name": n, **dataclasses.asdict(f)} for n, f in report.items()]
    return json.dumps({"fit": fit, "checks": checks})


def guarded(check: Callable[..., Finding], *args) -> Finding:
    """The finding of `check`; that it raised something is a finding too."""
    try:
        return check(*args)
    except (UserError, exit_codes.Failed) as error:
        return Finding(FAIL, str(error))
    except Exception as error:  # of JAX, a driver, a bucket, a configuration file
        text = " ".join(str(error).split())
        return Finding(FAIL, f"{type(error).__name__}: {text[:500]}")


def merged(reports: Sequence[Report], hosts: Sequence[str]) -> Report:
    """One report of those of all processes: of each check what is worst, and where."""
    result = {}
    for name in dict.fromkeys(name for report in reports for name in report):
        findings = {
            n: report[name] for n, report in enumerate(reports) if name in report
        }
        worst = max((f.status for f in findings.values()), key=(OK, WARN, FAIL).index)
        numbers = [n for n, finding in findings.items() if finding.status == worst]
        finding = findings[numbers[0]]
        if worst != OK and len(reports) > 1:
            where = f"process {numbers[0]} on {hosts[numbers[0]]}"
            if len(numbers) == len(reports):
                where = "all processes"
            elif numbers[1:]:
                where += f" (and {', '.join(map(str, numbers[1:]))})"
            finding = dataclasses.replace(finding, found=f"{where}: {finding.found}")
        result[name] = finding
    return result


class Examination:
    """The checks in their order, and what later ones need of earlier ones.

    Attributes:
      joined: whether other processes, if there are any, can be talked to.
      number: of this process; 0 as long as it has not joined.
    """

    def __init__(
        self, config: str | None, overrides: Sequence[str], workdir: str | None
    ) -> None:
        self.joined, self.number = False, 0
        self._file, self._overrides, self._workdir = config, overrides, workdir
        self._config: ConfigDict | None = None
        self._experiment: Experiment | None = None

    def alone(self) -> Report:
        """What this process finds by itself, once it has joined the others."""
        checks = {
            "accelerators": machine.check_accelerators,  # before JAX holds them
            "python": machine.check_python,
            "packages": machine.check_packages,
            "memory": machine.check_memory,
            "shared memory": machine.check_shared_memory,
            "open files": machine.check_open_files,
            "temporary folder": machine.check_temporary_folder,
        }
        report = {name: guarded(check) for name, check in checks.items()}
        if self._workdir:
            report["workdir"] = guarded(machine.check_workdir, self._workdir)
        if self._file:
            report["configuration"] = guarded(self._check_configuration)
        report["processes"] = guarded(self._check_processes)
        if report["processes"].status == FAIL:
            return report
        report["devices"] = guarded(self._check_devices)
        if self.joined:
            report["compile cache"] = guarded(check_compile_cache)
        if self.joined and self._config is not None:
            report["experiment"] = guarded(self._check_experiment)
        return report

    def together(self, report: Report) -> Report:
        """What all processes found, and what shows only when they act together."""
        from train import processes

        words = {name: dataclasses.astuple(finding) for name, finding in report.items()}
        told = processes.gather("report", [socket.gethostname(), self._workdir, words])
        hosts, workdirs, words = zip(*told, strict=True)
        reports = [{n: Finding(*f) for n, f in found.items()} for found in words]
        report = merged(reports, hosts)
        if processes.count() > 1:
            report["clocks"] = guarded(check_clocks)
            if any(workdirs):
                report["workdir shared"] = guarded(check_shared, workdirs)
            report["alike"] = guarded(self._check_alike)
        if any(finding.status == FAIL for finding in report.values()):
            what = "not tried, for it might hang"
            report["collective"] = Finding(WARN, what, "mend what fails, and try again")
        else:
            report["collective"] = guarded(check_collective)
        return report

    def part(self) -> None:
        """After a failure: waits until all processes know, so that any may end."""
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized():
            return
        if not self.joined:  # JAX would wait for the others
            os._exit(exit_codes.USER_ERROR)
        from train import processes

        with contextlib.suppress(exit_codes.Failed):  # the first has gone
            processes.gather("end", None)

    def _check_configuration(self) -> Finding:
        from train import build
        from train.config import load_config

        config = load_config(self._file, self._overrides)
        build.check_run(config)
        build.build_optimizer(config)
        self._config = config
        return Finding(OK, f"{self._file}, {len(self._overrides)} overrides")

    def _check_processes(self) -> Finding:
        """The coordinator is reachable, and all join."""
        import jax

        from train import processes

        begun = time.monotonic()
        if self._config is None:
            processes.join(_JOIN_SECONDS, _HEARTBEAT_SECONDS)
        else:
            run = self._config.run
            processes.join(60 * run.join_minutes, run.heartbeat_seconds)
        if not jax.distributed.is_initialized():
            return Finding(OK, "one, alone")
        return Finding(OK, f"all joined in {time.monotonic() - begun:.1f} s")

    def _check_devices(self) -> Finding:
        import jax

        from train.watchdog import watchdog

        with watchdog(_LIMIT_MINUTES):  # all processes must come here
            local = jax.local_devices()
        self.joined, self.number = True, jax.process_index()
        device, chips = local[0], tpu_chips()
        kind = f"{device.platform} devices ({device.device_kind})"
        found = f"{len(local)} {kind}"
        if jax.process_count() > 1:
            found = (
                f"{jax.device_count()} {kind} of {jax.process_count()} processes, "
                f"{len(local)} of each"
            )
        if chips and device.platform == "cpu":
            platforms = os.environ.get("JAX_PLATFORMS")
            return Finding(
                FAIL,
                f"JAX sees only the CPU of this TPU host ({', '.join(chips)})",
                f"unset JAX_PLATFORMS={platforms}"
                if platforms and "tpu" not in platforms
                else "pip install --constraint constraints.txt '.[tpu]', and see what "
                "JAX says above",
            )
        return Finding(OK, found)

    def _check_experiment(self) -> Finding:
        """The store is there and whole; windows, model and mesh fit it."""
        from train.experiment import prepare

        experiment = prepare(self._config)
        self._experiment = experiment
        return Finding(
            OK,
            f"{self._config.data.store}: {len(experiment.windows[0])} windows to train "
            f"on, {len(experiment.held_out)} to evaluate; mesh "
            f"{dict(experiment.mesh.shape)}",
        )

    def _check_alike(self) -> Finding:
        """Versions, environments, configurations, data, devices and meshes."""
        import jax
        import numpy as np
        from jax.sharding import Mesh

        from train import preflight
        from train.config import to_json

        config = {} if self._config is None else to_json(self._config)
        mesh, fingerprint = Mesh(np.array(jax.devices()), ("all",)), "-"
        if self._experiment is not None:
            mesh, fingerprint = (
                self._experiment.mesh,
                self._experiment.store.fingerprint,
            )
        preflight.check(config, fingerprint, mesh)
        return Finding(OK, "versions, environment, configuration, devices and mesh")


def check_compile_cache() -> Finding:
    """Programs that were compiled are kept for the next start."""
    import jax

    folder = jax.config.jax_compilation_cache_dir
    if not folder:
        todo = "set JAX_COMPILATION_CACHE_DIR to a folder on a disk or in a bucket"
        return Finding(WARN, "none: every start compiles everything again", todo)
    probe = probe_path(folder)
    try:
        probe.write_text("")
        probe.unlink()
    except Exception as error:
        todo = "set JAX_COMPILATION_CACHE_DIR to another folder"
        return Finding(WARN, f"{folder} cannot be written to ({error})", todo)
    return Finding(OK, folder)


def check_clocks() -> Finding:
    """The clocks of the hosts agree, roughly: tokens and logs need it."""
    from train import processes

    processes.gather("ready", None)
    times = processes.gather("time", time.time())
    spread = max(times) - min(times)
    found = f"within {spread:.1f} s"
    if spread > _CLOCK_SECONDS:
        last = times.index(max(times))
        found += f", that of process {last} being the last"
        return Finding(WARN, found, "set them: sudo timedatectl set-ntp true")
    return Finding(OK, found)


def check_shared(workdirs: Sequence[str | None]) -> Finding:
    """What process 0 writes into the folder, all others see.

    Args:
      workdirs: that were given to the processes.
    """
    from train import processes
    from train.folder import open_path

    for number, workdir in enumerate(workdirs):
        if workdir != workdirs[0]:
            return Finding(
                FAIL,
                f"--workdir={workdirs[0]} on process 0, {workdir} on process {number}",
                "give all the same",
            )
    workdir = workdirs[0]
    probe = None
    try:
        if processes.is_first():
            with contextlib.suppress(Exception):  # which was told already
                probe = probe_path(workdir)
                probe.write_text("")
        path = processes.gather("probe", str(probe) if probe else "")[0]
        seen = False
        with contextlib.suppress(Exception):
            seen = bool(path) and open_path(path).exists()
        blind = [n for n, sees in enumerate(processes.gather("seen", seen)) if not sees]
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)
    if blind:
        return Finding(
            FAIL,
            f"processes {', '.join(map(str, blind))} do not see what process 0 writes",
            "give a folder that all hosts share, or gs://BUCKET/FOLDER",
        )
    return Finding(OK, "all processes see what process 0 writes")


def check_collective() -> Finding:
    """All devices sum up ones, which makes their number."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from train.watchdog import watchdog

    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("all",))
    ones = np.ones(len(devices), np.float32)
    with watchdog(_LIMIT_MINUTES):
        begun = time.monotonic()
        split = jax.make_array_from_callback(
            ones.shape, NamedSharding(mesh, P("all")), lambda index: ones[index]
        )
        add = jax.shard_map(
            lambda x: jax.lax.psum(x, "all"),
            mesh=mesh,
            in_specs=P("all"),
            out_specs=P(),
        )
        total = float(jax.jit(add)(split).addressable_data(0)[0])
        seconds = time.monotonic() - begun
    if total != len(devices):
        found = f"{len(devices)} devices sum up to {total}"
        return Finding(FAIL, found, "take the machine out of use: it miscalculates")
    return Finding(OK, f"{len(devices)} devices, {seconds:.1f} s with its compilation")
