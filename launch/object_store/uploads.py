"""Uploads that take more than a name and a body: in two parts, and resumable."""

import dataclasses
import itertools
import json
import re
import threading
from http import HTTPStatus

from launch.object_store.objects import Object, Objects, Refusal

_CHUNK = 2**18  # all chunks of a resumable upload but the last are multiples of it
_BOUNDARY = re.compile(r'multipart/related; *boundary="?([^";]+)"?')
_CHUNK_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


def split_multipart(content_type: str, body: bytes) -> tuple[str | None, bytes]:
    """Name and content of an object that is uploaded with its metadata.

    The metadata may tell more, such as checksums and a type: that is not kept.
    """
    match = _BOUNDARY.fullmatch(content_type)
    delimiter = b"--" + match.group(1).encode() if match else b""
    # Clients end lines in one way or the other, and contents may end in either.
    line = b"\r\n" if body.startswith(delimiter + b"\r\n") else b"\n"
    pieces = body.split(line + delimiter, 1)
    try:
        about = json.loads(pieces[0].split(line + line, 1)[1])
        part, end = pieces[1].rsplit(line + delimiter, 1)
        content = part.split(line + line, 1)[1]
        if not match or not pieces[0].startswith(delimiter) or end.strip() != b"--":
            raise ValueError("no such boundaries")
        return about.get("name"), content
    except (AttributeError, IndexError, ValueError):
        message = "need two parts, JSON and content, between boundaries"
        raise Refusal(HTTPStatus.BAD_REQUEST, message) from None


@dataclasses.dataclass
class _Session:
    """A resumable upload on its way."""

    bucket: str
    name: str
    expected: int | None
    content: bytearray = dataclasses.field(default_factory=bytearray)


class ResumableUploads:
    """Uploads in chunks. The object appears with the last one, whole or not at all."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._sessions: dict[str, _Session] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, bucket: str, name: str, expected: int | None) -> str:
        """Returns the identifier of a new upload."""
        with self._lock:
            number = str(next(self._numbers))
            self._sessions[number] = _Session(bucket, name, expected)
        return number

    def add(
        self, number: str, content_range: str, chunk: bytes
    ) -> tuple[str, Object] | int:
        """Takes a chunk, or, if it is empty, tells how far the upload is.

        Returns:
          Name and object if that was the last chunk, else the bytes held so far.
        """
        if not content_range:  # all in one
            end = len(chunk) - 1
            content_range = f"bytes 0-{end}/{len(chunk)}" if chunk else "bytes */0"
        match = _CHUNK_RANGE.fullmatch(content_range)
        if match is None:
            message = f"bad Content-Range: {content_range}"
            raise Refusal(HTTPStatus.BAD_REQUEST, message)
        first, last, total = match.groups()
        with self._lock:
            session = self._find(number)
            start, stop = len(session.content), len(session.content) + len(chunk)
            whole = total == str(stop)
            if first is None:
                fits = not chunk
            else:
                fits = (int(first), int(last) + 1) == (start, stop)
            if not whole:
                fits = fits and not len(chunk) % _CHUNK
                fits = fits and (total == "*" or stop < int(total))
            if not fits:
                message = f"{content_range} with {len(chunk)} bytes, after {start}"
                raise Refusal(HTTPStatus.BAD_REQUEST, message)
            session.content += chunk
            if not whole:
                return stop
            del self._sessions[number]
        item = self._objects.put(
            session.bucket, session.name, bytes(session.content), session.expected
        )
        return session.name, item

    def cancel(self, number: str) -> None:
        with self._lock:
            self._find(number)
            del self._sessions[number]

    def _find(self, number: str) -> _Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no upload {number}") from None
