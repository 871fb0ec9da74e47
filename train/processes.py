"""The processes of a run: how they find each other, and what they tell one another.

What is exchanged here goes through JAX's coordination service, between hosts alone: no
device takes part, and every wait ends after a stated time with the name of who is
missing. `jax._src` is imported nowhere else.
"""

import glob
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax._src import distributed

from pipeline.errors import UserError
from train.exit_codes import Failed

T = TypeVar("T")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_exchanges = itertools.count()
_timeout_seconds = 300.0


def join(timeout_seconds: float, heartbeat_seconds: float) -> None:
    """Joins the other processes of this run, if there are any.

    They are found through the environment: the three variables
    `JAX_COORDINATOR_ADDRESS` (HOST:PORT of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, or, on a Cloud TPU VM or in GKE, what JAX knows of these. With
    neither, this process is alone. Call it before anything else asks JAX for devices;
    a second call does nothing.

    Args:
      timeout_seconds: for all to have joined; and for every later exchange.
      heartbeat_seconds: after so long a silence a process is taken for dead, and all
        others end.

    Raises:
      UserError: if the variables make no sense.
      Failed: if the coordinator cannot be reached in time.
    """
    global _timeout_seconds
    _timeout_seconds = timeout_seconds
    if distributed.global_state.client is not None:
        return
    # SIGTERM is a vote (`train.votes`); JAX's own notice would swallow it.
    jax.config.update("jax_enable_preemption_service", False)
    options = dict(
        initialization_timeout=int(timeout_seconds),
        heartbeat_timeout_seconds=int(heartbeat_seconds),
    )
    explicit = [name for name in _VARIABLES if os.environ.get(name)]
    if explicit:
        address, count, number = _explicit()
        if number:
            _await_coordinator(address, timeout_seconds)
        print(
            f"process {number} of {count}: joining {address} ...",
            file=sys.stderr,
            flush=True,
        )
        jax.distributed.initialize(address, count, number, **options)
    elif _on_cloud_tpu():
        print("joining the TPU's other hosts ...", file=sys.stderr, flush=True)
        jax.distributed.initialize(**options)


def _explicit() -> tuple[str, int, int]:
    """Address, number of processes and number of this one, from the environment."""
    address, count, number = (os.environ.get(name, "") for name in _VARIABLES)
    host, _, port = address.rpartition(":")
    good = host and port.isdigit() and count.isdigit() and number.isdigit()
    if not good or not int(number) < int(count):
        said = ", ".join(f"{n}={os.environ.get(n, '')!r}" for n in _VARIABLES)
        raise UserError(
            f"{said}: set all three, to HOST:PORT, the number of processes and a "
            "number below it, or none"
        )
    return address, int(count), int(number)


def _on_cloud_tpu() -> bool:
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return bool(chips) and (not platforms or "tpu" in platforms)


def _await_coordinator(address: str, timeout_seconds: float) -> None:
    """Returns as soon as something listens at the coordinator's address."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_seconds
    warned = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            reason = error
        if time.monotonic() > deadline:
            raise Failed(
                f"the coordinator (process 0) at {address} cannot be reached: {reason} "
                f"after {timeout_seconds:.0f} s. Is it running? May this host connect "
                "to that port (on Cloud TPU: a firewall rule for 8476 and 8482)?"
            )
        if time.monotonic() > warned + 15:
            warned = time.monotonic()
            print(f"waiting for {address}: {reason}", file=sys.stderr, flush=True)
        time.sleep(0.2)


def count() -> int:
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """A line for people, from process 0."""
    if is_first():
        print(line, file=sys.stderr, flush=True)


def _key_value_store() -> Any:
    return distributed.global_state.client


def _get(key: str, process: int, seconds: float) -> str:
    try:
        return _key_value_store().blocking_key_value_get(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise Failed(
            f"process {process} has not answered for {seconds:.0f} s ({key})"
        ) from error


def gather(name: str, value: Any, minutes: float | None = None) -> list[Any]:
    """The values (of JSON) of all processes, in their order, on each of them.

    All processes must call it, in the same order. Process 0 collects and hands out, so
    that a thousand processes make two thousand requests.

    Args:
      name: for messages.
      value: of this process.
      minutes: that others may take longer; default those of `join`.

    Raises:
      Failed: if one has not answered by then.
    """
    if count() == 1:
        return [value]
    number = next(_exchanges)
    key = f"podgcm/{number}/{name}"
    seconds = 60 * minutes if minutes else _timeout_seconds
    me = jax.process_index()
    if me:
        _key_value_store().key_value_set(f"{key}/{me}", json.dumps(value))
        return json.loads(_get(f"{key}/all", 0, seconds))
    values = [value]
    values += [json.loads(_get(f"{key}/{n}", n, seconds)) for n in range(1, count())]
    _key_value_store().key_value_set(f"{key}/all", json.dumps(values))
    # All have answered, so all have read what was handed out before.
    _key_value_store().key_value_delete(f"podgcm/{number - 1}/")
    return values


def on_first(name: str, function: Callable[[], T], minutes: float | None = None) -> T:
    """`function()` of process 0, and what it returned (of JSON) on all processes.

    It may take `minutes`, by default those of `join`. A `UserError` that it raises is
    raised everywhere; of any other error the others hear as `Failed`.
    """
    if count() == 1:
        return function()
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome = {"value": function()}
        except UserError as error:
            outcome = {"error": str(error)}
        except BaseException as error:
            gather(name, {"failure": f"process 0 failed: {error!r}"}, minutes)
            raise
    outcome = gather(name, outcome, minutes)[0]
    if "error" in outcome:
        raise UserError(outcome["error"])
    if "failure" in outcome:
        raise Failed(outcome["failure"])
    return outcome["value"]


def check_equal(name: str, value: Any) -> None:
    """Raises UserError unless all processes have the same value (of JSON)."""
    values = gather(name, value)
    for number, other in enumerate(values):
        if other != values[0]:
            ours, theirs = _difference(values[0], other)
            raise UserError(
                f"{name} differ: {ours} on process 0, {theirs} on process {number}; "
                "start all processes with the same installation, files and command"
            )


def _difference(first: Any, second: Any) -> tuple[Any, Any]:
    """The part of two values that differs, where they are dicts."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted(first.keys() | second.keys())
        differing = [k for k in keys if first.get(k) != second.get(k)]
        return tuple({k: x.get(k) for k in differing} for x in (first, second))
    return first, second


def leave(code: int) -> None:
    """Ends this process now if others would else be waited for.

    JAX waits for all processes when one exits, for minutes: one that failed must not.
    Does nothing if this process is alone, or did not fail.
    """
    state = distributed.global_state
    if code and state.client is not None and state.num_processes > 1:
        if state.process_id == 0:
            time.sleep(2)  # the others read from this process what it told them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
