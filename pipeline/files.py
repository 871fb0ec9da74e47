"""Files of a folder, here or in an object store, through TensorStore.

One client for all of them: whatever address TensorStore knows (a local path, gs://,
s3://, http://) can hold a source or a store. Objects are written whole or not at all.
"""

import functools
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Iterable
from typing import Any

import tensorstore as ts

from pipeline.errors import Unavailable, UserError, is_outage

# What TensorStore's file driver writes before it renames; kills leave some behind.
_LOCK_SUFFIX = ".__lock"


class Folder:
    """The files under an address. May be pickled, and shared by threads.

    Attributes:
      address: a local path, or an address such as gs://bucket/folder.
      local: the local path; None if it is elsewhere.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = os.fspath(address).rstrip("/") or "/"
        self.local = None if "://" in self.address else pathlib.Path(self.address)

    def __reduce__(self):
        return Folder, (self.address,)

    def __str__(self) -> str:
        return self.address

    @property
    def url(self) -> str:
        """The address as TensorStore wants it, ending in a slash."""
        if self.local is None:
            return f"{self.address}/"
        return "file://" + urllib.parse.quote(f"{self.local.absolute()}/")

    def child(self, name: str) -> "Folder":
        return Folder(f"{self.address}/{name}")

    @functools.cached_property
    def kvstore(self) -> ts.KvStore:
        """The folder as a mapping from file names to bytes.

        Raises:
          UserError: if the address is of no kind that TensorStore knows.
        """
        try:
            return ts.KvStore.open(self.url, context=io_context()).result()
        except (ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"cannot open {self}: {one_line(error)}") from error

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if it does not exist."""
        result = self._ask(name, self.kvstore.read(name))
        return result.value if result.state == "value" else None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Contents of files, all in flight at once."""
        pending = {name: self.kvstore.read(name) for name in names}
        found = {name: self._ask(name, future) for name, future in pending.items()}
        return {n: r.value if r.state == "value" else None for n, r in found.items()}

    def write(self, name: str, content: bytes) -> None:
        """Writes a file; whoever reads meanwhile finds the old or the new one."""
        self._ask(name, self.kvstore.write(name, content))

    def delete(self, name: str) -> None:
        """Deletes a file if it exists."""
        self._ask(name, self.kvstore.write(name, None))

    def delete_many(self, names: Iterable[str]) -> None:
        """Deletes files, all in flight at once."""
        pending = {name: self.kvstore.write(name, None) for name in names}
        for name, future in pending.items():
            self._ask(name, future)

    def delete_folder(self, name: str) -> None:
        """Deletes all files under a folder of this one."""
        self.delete_many(self.names(name))
        if self.local is not None:  # elsewhere there are no folders
            shutil.rmtree(self.local / name, ignore_errors=True)

    def exists(self, name: str) -> bool:
        result = self._ask(name, self.kvstore.read(name, byte_range=slice(0, 0)))
        return result.state == "value"

    def names(self, folder: str = "") -> list[str]:
        """Names of all files under a folder of this one, sorted."""
        prefix = f"{folder}/" if folder else ""
        found = self._ask(folder, (self.kvstore / prefix).list())
        return sorted(prefix + os.fsdecode(name) for name in found)

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Names of all files under a folder, and bytes; None where only a read tells.

        Object stores list names alone, but never hold half of an object.
        """
        names = self.names(folder)
        if self.local is None:
            return dict.fromkeys(names)
        return {name: (self.local / name).stat().st_size for name in names}

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Content of a JSON file; None if it does not exist.

        Raises:
          UserError: if it is damaged.
        """
        content = self.read(name)
        return None if content is None else self.parse_json(name, content)

    def parse_json(self, name: str, content: bytes) -> dict[str, Any]:
        """The value of a JSON file that has been read.

        Raises:
          UserError: if it is damaged.
        """
        try:
            return json.loads(content)
        except ValueError as error:
            raise UserError(f"{self}/{name} is damaged: {error}") from error

    def write_json(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        self.write(name, text.encode())

    def sweep(self) -> None:
        """Removes what killed writers left; no writer may be at work."""
        if self.local is not None:
            for file in self.local.rglob(f"*{_LOCK_SUFFIX}"):
                file.unlink(missing_ok=True)

    def _ask(self, name: str, future: ts.Future) -> Any:
        try:
            return future.result()
        except (ValueError, OSError) as error:
            kind = Unavailable if is_outage(error) else UserError
            raise kind(f"{self}/{name}: {one_line(error)}") from error


@functools.cache
def io_context() -> ts.Context:
    """Files are written under a name of their own each, and then renamed.

    With a lock file instead, as is the default, a writer goes on in what a killed one
    has left, and the end of a longer content stays behind that of a shorter one.
    """
    return ts.Context({"file_io_locking": {"mode": "none"}})


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
