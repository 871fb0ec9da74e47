"""Settings for many virtual devices on one CPU (`JAX_NUM_CPU_DEVICES`)."""

import os

from pipeline.errors import UserError

# Devices wait for each other inside collectives, and each occupies a thread while it
# waits: with as few threads as devices, two collectives that run at once can starve
# each other for ever.
_THREADS_PER_DEVICE = 8
_FLAGS = {
    # Seconds after which XLA takes a collective for dead and aborts; its 40 are too
    # few for a busy machine.
    "--xla_cpu_collective_call_terminate_timeout_seconds": 600,
    # A third less time to compile, and no slower: the work is in library calls.
    "--xla_backend_optimization_level": 1,
}


def prepare() -> None:
    """Sets what XLA reads when JAX first starts; call it before that.

    Leaves alone what the user has set. Does nothing for a single device.

    Raises:
      UserError: if that is no number.
    """
    number = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if not number.isdigit():
        raise UserError(f"JAX_NUM_CPU_DEVICES={number} is no number")
    devices = int(number)
    if devices < 2:
        return
    os.environ.setdefault("NPROC", str(_THREADS_PER_DEVICE * devices))
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in _FLAGS.items():
        if name not in flags:
            flags += f" {name}={value}"
    os.environ["XLA_FLAGS"] = flags.strip()
