"""Events for TensorBoard, which training neither waits for nor fails with."""

import math
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from train.processes import say

_QUEUE = 10_000  # more than the scalars between two looks at the thread


class Events:
    """A file of events that begins anew when it could not be written.

    A thread writes; a full disk, for one, ends it. Its queue is then never emptied, and
    who puts something into a full one waits for ever.
    """

    def __init__(self, folder: str, purge_step: int) -> None:
        """Drops, for who looks at them, earlier events from `purge_step` on."""
        self._folder = folder
        self._writer = SummaryWriter(folder, max_queue=_QUEUE, purge_step=purge_step)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """What is not finite is a gap in its curve."""
        if not self._is_alive():
            self._begin_anew("its thread has ended")
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        try:
            if self._is_alive():
                self._writer.flush()
        except OSError as error:
            self._begin_anew(str(error))

    def close(self) -> None:
        try:
            if self._is_alive():
                self._writer.close()
        except OSError as error:
            say(f"TENSORBOARD'S LAST EVENTS CANNOT BE WRITTEN: {error}")

    def _is_alive(self) -> bool:
        return self._writer.file_writer.event_writer._worker.is_alive()

    def _begin_anew(self, reason: str) -> None:
        say(f"TENSORBOARD'S EVENTS CANNOT BE WRITTEN: {reason}; another file begins")
        self._writer = SummaryWriter(self._folder, max_queue=_QUEUE)
