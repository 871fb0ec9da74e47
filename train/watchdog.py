"""A process that hangs says where, and ends, so that it can be started again.

A collective that a peer never enters waits for ever, and looks healthy from outside.
"""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from train import exit_codes


@contextmanager
def watchdog(limit_minutes: float) -> Iterator["Watchdog"]:
    """Watches the block; its limit holds until another is set.

    SIGUSR1 dumps all stacks to stderr in the meantime, and changes nothing else.
    """
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
    dog = Watchdog()
    dog.expect(limit_minutes)
    try:
        yield dog
    finally:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGUSR1)


class Watchdog:
    """Dumps the stacks of all threads and exits when something takes too long.

    The timer is a thread of C that needs no lock of Python's, so it fires whatever the
    interpreter hangs in.
    """

    def expect(self, minutes: float) -> None:
        """The next thing must be done, and `expect` called again, within so long."""
        faulthandler.dump_traceback_later(
            max(minutes * 60, 0.1), exit=True, file=sys.__stderr__
        )

    def check_background(self, what: str, since: float | None, minutes: float) -> None:
        """Ends this process if something in the background began too long ago.

        Args:
          what: for the message.
          since: `time.monotonic()` at its beginning, or None if there is nothing.
          minutes: how long it may take.
        """
        if since is None or time.monotonic() - since < minutes * 60:
            return
        print(f"watchdog: {what} takes longer than {minutes} minutes", file=sys.stderr)
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        sys.stderr.flush()
        os._exit(exit_codes.FAILED)
