"""The objects of a stand-in store: generations, moves and lists, as GCS has them."""

import itertools
import mmap
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import NamedTuple


class Refusal(Exception):
    """Why a request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Object(NamedTuple):
    """An object is replaced, never changed: whoever holds one has it whole."""

    content: bytes | mmap.mmap
    generation: int
    time: float  # of the upload, in seconds since 1970


class Page(NamedTuple):
    """A page of a list: objects by name, and prefixes that stand for many names."""

    objects: dict[str, Object]
    prefixes: list[str]
    last: str | None  # where the next page goes on, or None if there is none


def _check_generation(item: Object | None, expected: int | None) -> None:
    """Refuses if an object has not the generation expected, 0 for none at all."""
    generation = 0 if item is None else item.generation
    if expected is not None and expected != generation:
        message = f"the generation is {generation}, not {expected}"
        raise Refusal(HTTPStatus.PRECONDITION_FAILED, message)


class Objects:
    """Objects by bucket and name, over the files of a folder. Shared by threads."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = None if folder is None else pathlib.Path(folder)
        # None stands for a deleted one, which may be a file of the folder.
        self._objects: dict[tuple[str, str], Object | None] = {}
        self._generations = itertools.count(1)
        self._lock = threading.RLock()

    def find(self, bucket: str, name: str) -> Object | None:
        try:
            return self._objects[bucket, name]
        except KeyError:
            return self._from_folder(name)

    def get(self, bucket: str, name: str, expected: int | None = None) -> Object:
        item = self.find(bucket, name)
        _check_generation(item, expected)
        if item is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no object gs://{bucket}/{name}")
        return item

    def put(
        self,
        bucket: str,
        name: str,
        content: bytes | mmap.mmap,
        expected: int | None = None,
    ) -> Object:
        with self._lock:
            _check_generation(self.find(bucket, name), expected)
            item = Object(content, next(self._generations), time.time())
            self._objects[bucket, name] = item
        return item

    def delete(self, bucket: str, name: str, expected: int | None = None) -> None:
        with self._lock:
            self.get(bucket, name, expected)
            self._objects[bucket, name] = None

    def move(
        self, bucket: str, name: str, to: str, expected: int | None = None
    ) -> Object:
        """Gives an object another name at once; `expected` is of the one replaced."""
        with self._lock:
            content = self.get(bucket, name).content
            item = self.put(bucket, to, content, expected)
            self.delete(bucket, name)
        return item

    def page(
        self,
        bucket: str,
        size: int,
        after: str = "",
        prefix: str = "",
        delimiter: str = "",
        start: str = "",
        end: str = "",
    ) -> Page:
        """One page of the list of a bucket.

        Args:
          bucket: to list.
          size: entries in the page at most, prefixes included.
          after: `last` of the page before.
          prefix: of the names wanted.
          delimiter: names with one after the prefix are told by their common prefix,
            up to and including it.
          start: first name wanted.
          end: the name to stop before; no end if empty.
        """
        entries: dict[str, bool] = {}  # in order; and whether it is a prefix
        for name in self._names(bucket):
            if name.startswith(prefix) and start <= name and (not end or name < end):
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                entry = name if cut < 0 else name[: cut + len(delimiter)]
                if after < entry:
                    entries[entry] = cut >= 0
        listed = list(entries)[:size]
        found = {name: self.find(bucket, name) for name in listed if not entries[name]}
        return Page(
            # What has been deleted since its name was taken is left out.
            {name: item for name, item in found.items() if item},
            [entry for entry in listed if entries[entry]],
            listed[-1] if len(entries) > size else None,
        )

    def _names(self, bucket: str) -> list[str]:
        """Names of all objects of a bucket, sorted."""
        with self._lock:
            known = {n: o for (b, n), o in self._objects.items() if b == bucket}
        names = {name for name, item in known.items() if item is not None}
        names.update(name for name in self._folder_names() if name not in known)
        return sorted(names)

    def _folder_names(self) -> Iterator[str]:
        if self._folder is not None:
            for parent, _, files in os.walk(self._folder):
                folder = pathlib.Path(parent).relative_to(self._folder)
                yield from ((folder / file).as_posix() for file in files)

    def _from_folder(self, name: str) -> Object | None:
        # No name may lead out of the folder.
        if self._folder is None or {"", ".", ".."} & set(name.split("/")):
            return None
        try:
            with open(self._folder / name, "rb") as file:
                about = os.fstat(file.fileno())
                content: bytes | mmap.mmap = b""
                if about.st_size:  # or there is nothing to map
                    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # no file, or a name that none can have
            return None
        # Far beyond the generations of uploads, and another if the file changes.
        return Object(content, about.st_mtime_ns, about.st_mtime)
