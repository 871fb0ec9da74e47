"""A checkpoint's record: JSON that is made while the arrays are written.

It knows whether it is what was written, as digests of the arrays do for them.
"""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from train import processes

_FILE = "metadata"  # as of Orbax's own JSON


def read_record(folder: epath.Path) -> dict[str, Any]:
    """The record in the folder of a checkpoint's item.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is not what was written.
    """
    record = json.loads((folder / _FILE).read_text())
    if record.pop("check", None) != _check(record):
        raise ValueError("its record is not what was written")
    return record


class RecordHandler(ocp.AsyncCheckpointHandler):
    """Writes a record within Orbax's transaction, in the background."""

    async def async_save(
        self, directory: epath.Path, args: "RecordSave"
    ) -> list[ocp.future.Future]:
        return [
            ocp.future.CommitFutureAwaitingContractedSignals(
                self._write(directory, args.make), name="record"
            )
        ]

    async def _write(
        self, directory: epath.Path, make: Callable[[], dict[str, Any]]
    ) -> None:
        record = make()
        if processes.is_first():
            record = {**record, "check": _check(record)}
            (directory / _FILE).write_text(json.dumps(record))

    def save(self, directory: epath.Path, args: "RecordSave") -> None:
        asyncio.run(self._write(directory, args.make))

    def restore(self, directory: epath.Path, args: Any = None) -> dict[str, Any]:
        return read_record(directory)


# Orbax wants arguments of both kinds of every handler.
@ocp.args.register_with_handler(RecordHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class RecordSave(ocp.args.CheckpointArgs):
    """What is saved.

    Attributes:
      make: called on every process, in another thread; returns the record.
    """

    make: Callable[[], dict[str, Any]]


def _check(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
