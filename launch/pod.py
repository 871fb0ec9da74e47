"""`podgcm pod`: a pod on one machine, supervised.

Real processes with real collectives between them, on virtual CPU devices. What a
cloud's supervisors do to a pod happens here too: when one process ends, the others are
ended; then the same command is run again, until it has finished or is not worth another
try.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from pipeline.errors import UserError
from train import exit_codes

_POLL = 0.05  # seconds
_LONGEST_DELAY = 60.0  # seconds between attempts
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def run(
    command: Sequence[str],
    processes: int,
    devices: int,
    restarts: int,
    delay: float,
    grace: float,
) -> int:
    """Runs a command as a pod, again and again until it has finished.

    Args:
      command: a command of podgcm with its arguments, or any other command.
      processes: how many.
      devices: virtual ones of each process.
      restarts: at most.
      delay: seconds before the first; doubled for each that follows, to a minute. There
        is none after a preemption.
      grace: seconds from when a process has failed until those that are left are
        killed. A pod that is told to stop (SIGTERM, Ctrl-C) waits until all have
        saved; told twice, it kills them at once.

    Returns:
      The exit code of the pod's last attempt, see `train.exit_codes`.

    Raises:
      UserError: if there is no such command, or a number makes no sense.
    """
    for name, value, least in [
        ("processes", processes, 1),
        ("devices", devices, 1),
        ("restarts", restarts, 0),
        ("delay", delay, 0),
        ("grace", grace, 0),
    ]:
        if value < least:
            raise UserError(f"--{name}={value} must be at least {least}")
    arguments = _arguments(command)
    stop, kill = threading.Event(), threading.Event()

    def told(*_: object) -> None:
        (kill if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    attempt = 0
    while True:
        code = _attempt(arguments, processes, devices, grace, stop, kill, attempt)
        _say(f"attempt {attempt}: {_words(code)}")
        if stop.is_set() or not exit_codes.worth_retrying(code):
            return code
        if attempt == restarts:
            _say(f"no more restarts (--restarts={restarts})")
            return code
        wait = 0.0
        if code != exit_codes.PREEMPTED:
            wait = min(delay * 2**attempt, _LONGEST_DELAY)
        attempt += 1
        _say(f"restart {attempt} of {restarts} in {wait:.0f} s")
        if stop.wait(wait):
            return code


def _arguments(command: Sequence[str]) -> list[str]:
    from launch.cli import COMMANDS

    if not command:
        raise UserError("give a command after a lone --, such as -- train --config=...")
    if command[0] in COMMANDS:
        return [sys.executable, "-m", "launch.cli", *command]
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is neither a command of podgcm nor of this machine"
        )
    return list(command)


def _attempt(
    arguments: Sequence[str],
    processes: int,
    devices: int,
    grace: float,
    stop: threading.Event,
    kill: threading.Event,
    attempt: int,
) -> int:
    """Starts all processes, waits for their end, and returns the pod's exit code."""
    address = f"127.0.0.1:{_free_port()}"
    children = []
    printers = []
    lock = threading.Lock()
    for number in range(processes):
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_COORDINATOR_BIND_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
                "PYTHONUNBUFFERED": "1",
            },
            # A signal to this pod's group (Ctrl-C) is this process's to pass on.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        children.append(child)
        printer = threading.Thread(
            target=_print_lines, args=(child.stdout, number, lock), daemon=True
        )
        printer.start()
        printers.append(printer)
    _say(
        f"attempt {attempt}: {processes} processes x {devices} devices, pids "
        + " ".join(str(c.pid) for c in children)
    )
    codes = _supervise(children, grace, stop, kill)
    for printer in printers:
        printer.join(timeout=5)
    return _combined(codes)


def _supervise(
    children: Sequence[subprocess.Popen],
    grace: float,
    stop: threading.Event,
    kill: threading.Event,
) -> list[int | None]:
    """Waits for all children; their exit codes, None of those that were killed here."""
    deadline, told = None, False
    while any(child.poll() is None for child in children):
        ended = [child.returncode for child in children if child.poll() is not None]
        if stop.is_set() and not told:
            told = True
            _say("told to stop: passing it on")
            for child in children:
                child.send_signal(signal.SIGTERM)
        # One that has finished leaves the others to finish; one that failed does not.
        if deadline is None and any(ended):
            deadline = time.monotonic() + grace
        if kill.is_set() or (deadline is not None and time.monotonic() > deadline):
            break
        time.sleep(_POLL)
    codes = [child.poll() for child in children]
    for child in children:
        if child.returncode is None:
            child.kill()  # which ends a stopped process too
            child.wait()
    if None in codes:
        number = next((n for n, code in enumerate(codes) if code), None)
        why = "told to stop twice"
        if number is not None:
            why = f"process {number} {_words(codes[number])}; after {grace:.0f} s"
        left = ", ".join(str(n) for n, code in enumerate(codes) if code is None)
        _say(f"{why}: killed {left}")
    return codes


def _combined(codes: Sequence[int | None]) -> int:
    """The exit code of a pod whose processes ended so."""
    known = [code for code in codes if code]
    if exit_codes.USER_ERROR in known:
        return exit_codes.USER_ERROR
    terminated = {exit_codes.PREEMPTED, -signal.SIGTERM}
    if known and set(known) <= terminated:
        return exit_codes.PREEMPTED
    return exit_codes.FAILED if any(codes) or None in codes else exit_codes.FINISHED


def _words(code: int) -> str:
    words = {
        exit_codes.FINISHED: "finished",
        exit_codes.USER_ERROR: "ended by a user's mistake (2): not tried again",
        exit_codes.PREEMPTED: "preempted (75)",
    }
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return words.get(code, f"failed ({code})")


def _print_lines(stream: IO[bytes], number: int, lock: threading.Lock) -> None:
    """Prints a process's lines with its number in front."""
    for line in stream:
        text = line.decode(errors="replace").rstrip()
        if text.startswith("[Gloo] Rank"):  # noise of the collectives' library
            continue
        with lock:
            print(f"[{number}] {text}", flush=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _die_with_parent() -> None:
    """In a child: be killed when the parent is, whatever killed it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(line: str) -> None:
    print(f"pod: {line}", flush=True)
