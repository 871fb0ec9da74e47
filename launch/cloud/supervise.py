"""Watching a run on TPU VMs, and bringing it back when its machines are taken away.

All there is to know is in the cloud: the state of the queued resource, and on every
host how its command does. So a watcher may be killed, and another one goes on.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

from launch.cloud.commands import CloudError
from launch.cloud.tpu import SSH_TRIES, QueuedResource, Resource, Worker
from train import exit_codes

_GONE = ("FAILED", "SUSPENDING", "SUSPENDED")
# Polls in a row without an answer from the hosts; a host that is maintained needs some.
_PATIENCE = 30


@dataclasses.dataclass(frozen=True)
class Run:
    """What is to be kept running.

    Attributes:
      resource: where.
      poll: seconds between looks.
      upload: puts the program where hosts find it; if told to, in place of one that is
        there.
      create: asks for the machines.
      install: puts the program onto so many hosts.
      start: starts the command on so many hosts.
    """

    resource: QueuedResource
    poll: float
    upload: Callable[[bool], None]
    create: Callable[[], None]
    install: Callable[[int], None]
    start: Callable[[int], None]


class Lost(exit_codes.Preempted):
    """The machines were taken away, or the command no longer runs on all of them."""


def supervise(run: Run, recoveries: int, keep: bool) -> int:
    """Brings a run to its end, from whatever state it is in; its exit code.

    Machines that are taken away are asked for again. When the command has finished they
    are deleted, unless `keep`; they stay after any other end, to look at.

    Args:
      run: what is to be done.
      recoveries: how often to begin again.
      keep: leave the machines when the command has finished.

    Raises:
      CloudError: if the cloud refuses, or the run is lost more often than that.
    """
    resource, shell = run.resource, run.resource.shell
    _upload(run)
    for recovery in range(recoveries + 1):
        try:
            _bring_up(run)
            code = watch(resource, run.poll)
            break
        except Lost as lost:
            shell.note(f"{lost} (recovery {recovery + 1} of {recoveries})")
    else:
        raise CloudError(f"{resource.name} was lost {recoveries + 1} times; gave up")
    if shell.dry_run:
        shell.note("if it is SUSPENDED or FAILED: delete, and all of this again")
    if code != exit_codes.FINISHED:
        shell.note(f"the command ended with {code}; {resource.name} still costs")
    elif not keep:
        shell.note("when the command has finished")
        resource.delete()
    return code


def start(run: Run) -> None:
    """Starts the command on machines that were asked for.

    Raises:
      CloudError: if they are not to be had, or the cloud refuses.
      Lost: if they were taken away.
    """
    _upload(run)
    hosts = wait_until_active(run.resource, run.poll)
    run.install(hosts)
    run.start(hosts)


def wait_until_active(resource: QueuedResource, poll: float) -> int:
    """Waits for machines that were asked for, as long as it takes.

    Returns:
      How many hosts there are; 0 in a dry run.

    Raises:
      CloudError: if there is no such request, or it has failed.
      Lost: if they were there, and were taken away before anyone looked.
    """
    resource.shell.note(f"until {resource.name} is ACTIVE")
    last = None
    while True:
        found = resource.describe()
        if resource.shell.dry_run:
            return 0
        if found is None:
            raise CloudError(f"there is no queued resource {resource.name}: create it")
        if found.state != last:
            resource.shell.note(f"{resource.name}: {found.state}")
            last = found.state
        if found.state == "ACTIVE":
            return found.hosts
        if found.state == "FAILED":  # such as for want of quota
            raise CloudError(f"{resource.name} is {_why(found)}")
        if found.state in _GONE:
            raise Lost(f"{resource.name} is {_why(found)}")
        time.sleep(poll)


def watch(resource: QueuedResource, poll: float) -> int:
    """Shows how a run does until it ends on all hosts; its exit code.

    Raises:
      CloudError: if its hosts do not answer any more, although they are there.
      Lost: if they are not, or the command runs no longer on some of them.
    """
    shell = resource.shell
    shell.note(f"every {poll:g} s")
    silent, last = 0, None
    while True:
        found = resource.describe()
        if not shell.dry_run and (found is None or found.state in _GONE):
            raise Lost(f"{resource.name} is {_why(found)}")
        try:
            workers = resource.workers(found.hosts if found else 0)
            log = resource.log(lines=3)
            silent = 0
        except CloudError as error:
            silent += 1
            shell.note(f"no answer ({silent} of {_PATIENCE}): {error}")
            if silent == _PATIENCE:
                raise CloudError(
                    f"the hosts of {resource.name} do not answer, although it is "
                    "ACTIVE; the run may go on"
                ) from None
            time.sleep(poll)
            continue
        if shell.dry_run:
            return exit_codes.FINISHED
        summary = _summary(workers, found)
        if (summary, log) != last:
            shell.note(f"{summary}\n{log.rstrip()}")
            last = summary, log
        code = _outcome(resource, workers, found)
        if code is not None:
            return code
        time.sleep(poll)


def _upload(run: Run) -> None:
    """The program: the present one, unless the run has begun with another.

    Once: what machines are brought back with is what the others have.
    """
    resource = run.resource
    found = resource.describe()
    begun = False
    if found is not None and found.state == "ACTIVE":
        workers = resource.workers(found.hosts, tries=SSH_TRIES)
        begun = any(worker.state in ("running", "lost") for worker in workers)
    elif found is not None:
        begun = found.state in ("SUSPENDING", "SUSPENDED")
    if begun:
        resource.shell.note(f"{resource.name} has begun, and keeps its program")
    run.upload(not begun)


def _bring_up(run: Run) -> None:
    """Machines, program and command, as far as they are not there."""
    resource = run.resource
    found = resource.describe()
    if found is not None and found.state in (*_GONE, "DELETING"):
        resource.shell.note(f"{resource.name} is {_why(found)}: it is deleted")
        if found.state != "DELETING":
            resource.delete()
        while resource.describe() is not None:
            time.sleep(run.poll)
        found = None
    if found is None:
        run.create()
    hosts = wait_until_active(resource, run.poll)
    try:
        if found is not None and _under_way(resource.workers(hosts, tries=SSH_TRIES)):
            resource.shell.note(f"{resource.name} is at it already")
            return
        run.install(hosts)
        run.start(hosts)
    except CloudError:
        found = resource.describe()
        if found is not None and found.state == "ACTIVE":
            raise
        raise Lost(f"{resource.name} is {_why(found)}") from None


def _under_way(workers: Sequence[Worker]) -> bool:
    """Whether there is nothing to start: the command runs, or has finished."""
    return bool(workers) and all(
        worker.state == "running"
        or (worker.state, worker.number) == ("ended", exit_codes.FINISHED)
        for worker in workers
    )


def _outcome(
    resource: QueuedResource, workers: Sequence[Worker], found: Resource
) -> int | None:
    """The exit code of the whole run, once there is one.

    Raises:
      Lost: if it must be started again.
    """
    ended = [worker.number for worker in workers if worker.state == "ended"]
    if exit_codes.USER_ERROR in ended:
        # The others would wait for that host, and try again.
        resource.stop(found.hosts)
        return exit_codes.USER_ERROR
    missing = [w.host for w in workers if w.state in ("absent", "lost")]
    if missing:
        raise Lost(f"the command does not run on {', '.join(missing[:3])}")
    stopped = [worker for worker in workers if worker.state == "stopped"]
    if len(ended) + len(stopped) < max(found.hosts, 1):
        return None
    if stopped:
        return exit_codes.PREEMPTED
    if exit_codes.PREEMPTED in ended:
        # It was told to save, and not by us: the machines are about to go.
        raise Lost(f"the command on {resource.name} was preempted")
    if all(code == exit_codes.FINISHED for code in ended):
        return exit_codes.FINISHED
    return exit_codes.FAILED


def _summary(workers: Sequence[Worker], found: Resource) -> str:
    running = [w.number or 1 for w in workers if w.state == "running"]
    ended = sorted({w.number for w in workers if w.state == "ended"})
    parts = [f"{len(running)} of {found.hosts} hosts run"]
    if running:
        parts.append(f"try {max(running)}")
    if ended:
        parts.append(f"ended with {', '.join(map(str, ended))}")
    return "; ".join(parts)


def _why(found: Resource | None) -> str:
    if found is None:
        return "deleted"
    return f"{found.state}: {found.error}" if found.error else found.state
