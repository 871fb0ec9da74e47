"""How a process ends, for whoever started it: `podgcm pod`, a VM's loop, Kubernetes.

Whatever is not listed (1 after a traceback or the watchdog's dump, 134 when JAX loses a
peer, 137 after SIGKILL) is a failure, and worth another try: the same command goes on
from the newest checkpoint.
"""

from pipeline.errors import UserError

FINISHED = 0
FAILED = 1
USER_ERROR = 2  # of usage, configuration or data: another try would end in the same
PREEMPTED = 75  # told to stop by SIGTERM, saved, and to be started again


def worth_retrying(code: int) -> bool:
    """Whether the same command should be run again after a process ended so."""
    return code not in (FINISHED, USER_ERROR)


class Diverged(UserError):
    """Numbers are no longer finite; raised by all processes at the same step."""


class Failed(RuntimeError):
    """Something went wrong that may go well next time; told in one line."""


class Preempted(Exception):
    """Training was told to stop, and has saved what it had."""
