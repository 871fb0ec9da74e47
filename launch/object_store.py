"""A stand-in for Google Cloud Storage, for tests and benchmarks without a cloud.

A real HTTP server with the part of the GCS JSON API [1] that TensorStore's driver
`gcs` uses: reads of objects and of ranges, their metadata, uploads in one request,
deletion and lists, all with generations. Every bucket exists, objects live in memory.
Latency and failures can be injected, and requests and bytes are counted.

    with ObjectStore(latency=0.03, failure_rate=0.1) as store:
        subprocess.run(command, env={**os.environ, **store.environment}, check=True)
        print(store.statistics())

It also runs as a process of its own, which costs the measured one no time, and prints
its address as its first line:

    python -m launch.object_store --port=0 --folder=stores --latency=0.03

GET /statistics then gives `Statistics` as JSON. POST /settings takes a JSON object
that may hold `latency`, `failure_rate`, and `reset`: true, to count from 0 again.

A process finds the store through environment variables, `environment`. Set them before
it first opens a gs:// address: what is open keeps its server, and TensorStore looks for
credentials only once.

[1] https://cloud.google.com/storage/docs/json_api/v1
"""

import argparse
import dataclasses
import http.server
import itertools
import json
import mmap
import os
import pathlib
import random
import re
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from pipeline.errors import UserError

_PAGE = 1000  # names in a page of a list, at most, as in GCS
_OBJECTS = re.compile(r"/storage/v1/b/([^/]+)/o(?:/(.+))?")
_UPLOADS = re.compile("/upload" + _OBJECTS.pattern)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def environment(url: str) -> dict[str, str]:
    """Environment variables of a process whose gs:// is the store at an address."""
    return {
        "TENSORSTORE_GCS_HTTP_URL": url,
        # Any token will do; with none, TensorStore looks for Google's credentials.
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "unused",
    }


@dataclasses.dataclass
class Statistics:
    """What a store was asked for since it started or was last reset.

    Attributes:
      get: reads of objects, of parts of them, and of their metadata.
      put: uploads received whole.
      list: pages of lists.
      delete: deletions.
      failed: how many of all those were answered with an injected 503.
      bytes_sent: of objects, sent.
      bytes_received: of objects, received in uploads, failed ones included.
    """

    get: int = 0
    put: int = 0
    list: int = 0
    delete: int = 0
    failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class ObjectStore:
    """An object store on this machine, served while it is entered as a context."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        latency: float = 0.0,
        failure_rate: float = 0.0,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        """Takes a port; requests are served once the context is entered.

        Args:
          folder: its files are objects of every bucket, until uploads or deletions
            hide them; it is never written to. None for no objects at the start.
          latency: seconds that every request waits.
          failure_rate: share of requests, drawn at random, that get a 503.
          seed: of the draws.
          port: to listen on; 0 for a free one.

        Raises:
          UserError: if there is no such folder, the port is taken, the latency is
            negative or the failure rate not in [0, 1].
        """
        if folder is not None and not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder: give one that exists")
        self.objects = _Objects(folder)
        self.configure(latency, failure_rate)
        self._random = random.Random(seed)
        self._statistics = Statistics()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        try:
            self._server = _Server(("127.0.0.1", port), self)
        except OSError as error:
            raise UserError(f"cannot listen on port {port}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "ObjectStore":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._server.server_address)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process whose gs:// is this store."""
        return environment(self.url)

    def configure(
        self, latency: float | None = None, failure_rate: float | None = None
    ) -> None:
        """Changes the latency or the failure rate, at any time.

        Raises:
          UserError: if the latency is negative or the failure rate not in [0, 1].
        """
        if latency is not None and not 0 <= latency < float("inf"):
            raise UserError(f"latency is {latency} s: give 0 or more")
        if failure_rate is not None and not 0 <= failure_rate <= 1:
            raise UserError(f"failure rate is {failure_rate}: give 0 to 1")
        if latency is not None:
            self.latency = latency
        if failure_rate is not None:
            self.failure_rate = failure_rate

    def statistics(self) -> Statistics:
        with self._lock:
            return dataclasses.replace(self._statistics)

    def reset(self) -> None:
        """Counts from 0 again."""
        with self._lock:
            self._statistics = Statistics()

    def count(self, **amounts: int) -> None:
        """Adds to the statistics."""
        with self._lock:
            for name, amount in amounts.items():
                total = getattr(self._statistics, name) + amount
                setattr(self._statistics, name, total)

    def wait(self) -> None:
        """Lets the latency pass, unless the store is closed meanwhile."""
        self._closing.wait(self.latency)

    def fails(self) -> bool:
        """Whether the request at hand is one that fails; counts it if so."""
        with self._lock:
            failed = self._random.random() < self.failure_rate
            self._statistics.failed += failed
        return failed


class _Refusal(Exception):
    """Why a request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Object(NamedTuple):
    """An object is replaced, never changed: whoever holds one has it whole."""

    content: bytes | mmap.mmap
    generation: int


def _check_generation(item: _Object | None, expected: int | None) -> None:
    """Refuses if an object has not the generation expected, 0 for none at all."""
    generation = 0 if item is None else item.generation
    if expected is not None and expected != generation:
        message = f"the generation is {generation}, not {expected}"
        raise _Refusal(HTTPStatus.PRECONDITION_FAILED, message)


class _Objects:
    """Objects by bucket and name, over the files of a folder. Shared by threads."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = None if folder is None else pathlib.Path(folder)
        # None stands for a deleted one, which may be a file of the folder.
        self._objects: dict[tuple[str, str], _Object | None] = {}
        self._generations = itertools.count(1)
        self._lock = threading.Lock()

    def find(self, bucket: str, name: str) -> _Object | None:
        try:
            return self._objects[bucket, name]
        except KeyError:
            return self._from_folder(name)

    def get(self, bucket: str, name: str, expected: int | None = None) -> _Object:
        item = self.find(bucket, name)
        _check_generation(item, expected)
        if item is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, f"no object gs://{bucket}/{name}")
        return item

    def put(
        self, bucket: str, name: str, content: bytes, expected: int | None
    ) -> _Object:
        with self._lock:
            _check_generation(self.find(bucket, name), expected)
            item = _Object(content, next(self._generations))
            self._objects[bucket, name] = item
        return item

    def delete(self, bucket: str, name: str, expected: int | None) -> None:
        with self._lock:
            self.get(bucket, name, expected)
            self._objects[bucket, name] = None

    def names(self, bucket: str) -> list[str]:
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

    def _from_folder(self, name: str) -> _Object | None:
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
        return _Object(content, about.st_mtime_ns)


class _Server(http.server.ThreadingHTTPServer):
    """One thread per connection; all are closed and joined at the end."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], store: ObjectStore) -> None:
        self.store = store
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self):
        for connection in tuple(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its client was quicker
        super().server_close()

    def handle_error(self, request, client_address):
        # Clients may go at any time.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"  # which keeps connections
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def log_message(self, format, *args):
        pass

    def _answer(self, method) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            # Also a request that is refused leaves none of its body behind.
            body = self._body()
            method(url.path, query, body)
        except _Refusal as refusal:
            error = {"code": refusal.status, "message": str(refusal)}
            self._reply_json({"error": error}, refusal.status)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the connection broke within a body")
        return body

    def _get(self, path: str, query: dict[str, str], body: bytes) -> None:
        store = self.server.store
        if path == "/statistics":
            self._reply_json(dataclasses.asdict(store.statistics()))
            return
        bucket, name = _address(_OBJECTS, path)
        self._admit("get" if name else "list")
        if not name:
            self._reply_json(_page(store.objects, bucket, query))
            return
        item = store.objects.get(bucket, name, _generation(query, "ifGenerationMatch"))
        if item.generation == _generation(query, "ifGenerationNotMatch"):
            self._reply(HTTPStatus.NOT_MODIFIED)
        elif query.get("alt") == "media":
            self._reply_media(item)
        else:
            self._reply_json(_metadata(name, item))

    def _post(self, path: str, query: dict[str, str], body: bytes) -> None:
        store = self.server.store
        if path == "/settings":
            self._reply_json(_change_settings(store, body))
            return
        bucket, _ = _address(_UPLOADS, path)
        store.count(bytes_received=len(body))
        self._admit("put")
        name = query.get("name")
        if query.get("uploadType") != "media" or not name:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "need uploadType=media and a name")
        expected = _generation(query, "ifGenerationMatch")
        item = store.objects.put(bucket, name, body, expected)
        self._reply_json(_metadata(name, item))

    def _delete(self, path: str, query: dict[str, str], body: bytes) -> None:
        bucket, name = _address(_OBJECTS, path)
        self._admit("delete")
        expected = _generation(query, "ifGenerationMatch")
        self.server.store.objects.delete(bucket, name, expected)
        self._reply(HTTPStatus.NO_CONTENT)

    def _admit(self, kind: str) -> None:
        """Counts a request and lets it wait; a failing one ends here."""
        store = self.server.store
        store.count(**{kind: 1})
        store.wait()
        if store.fails():
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "injected failure")

    def _reply_media(self, item: _Object) -> None:
        size = len(item.content)
        headers = {"x-goog-generation": str(item.generation)}
        part = _part(self.headers.get("Range", ""), size)
        if part is None:
            status, part = HTTPStatus.OK, range(size)
        elif not part:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            headers = {"Content-Range": f"bytes */{size}"}
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {part[0]}-{part[-1]}/{size}"
        self.server.store.count(bytes_sent=len(part))
        content = memoryview(item.content)[part.start : part.stop]
        self._reply(status, content, "application/octet-stream", headers)

    def _reply_json(
        self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self._reply(status, json.dumps(value).encode(), "application/json")

    def _reply(
        self,
        status: HTTPStatus,
        content: bytes | memoryview = b"",
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _address(pattern: re.Pattern[str], path: str) -> tuple[str, str]:
    """Bucket and name of an object; no name for all of the bucket."""
    match = pattern.fullmatch(path)
    if match is None:
        raise _Refusal(HTTPStatus.NOT_FOUND, f"{path} is not served here")
    bucket, name = match.groups("")
    return urllib.parse.unquote(bucket), urllib.parse.unquote(name)


def _part(header: str, size: int) -> range | None:
    """Bytes that a Range header asks for, none if past the end; None for all."""
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    stop = min(size, int(last) + 1) if last else size
    return range(int(first), max(int(first), stop))


def _generation(query: dict[str, str], parameter: str) -> int | None:
    value = query.get(parameter)
    if value is not None and not value.isdecimal():
        raise _Refusal(HTTPStatus.BAD_REQUEST, f"{parameter}={value} is not a number")
    return None if value is None else int(value)


def _metadata(name: str, item: _Object) -> dict[str, str]:
    # GCS writes 64-bit integers as strings.
    size, generation = str(len(item.content)), str(item.generation)
    return {"name": name, "size": size, "generation": generation}


def _page(objects: _Objects, bucket: str, query: dict[str, str]) -> dict[str, Any]:
    """One page of the list of a bucket."""
    if "delimiter" in query:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "delimiter is not supported")
    try:
        size = min(int(query.get("maxResults", _PAGE)), _PAGE)
        last = bytes.fromhex(query.get("pageToken", "")).decode()
    except ValueError:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "bad maxResults or pageToken") from None
    if size < 1:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "maxResults must be 1 or more")
    prefix, start = query.get("prefix", ""), query.get("startOffset", "")
    end = query.get("endOffset")
    names = [
        name
        for name in objects.names(bucket)
        if name.startswith(prefix)
        and start <= name
        and last < name
        and (not end or name < end)
    ]
    found = {name: objects.find(bucket, name) for name in names[:size]}
    # What has been deleted since its name was taken is left out.
    items = [_metadata(name, item) for name, item in found.items() if item]
    page: dict[str, Any] = {"items": items}
    if len(names) > size:
        page["nextPageToken"] = names[size - 1].encode().hex()
    return page


def _change_settings(store: ObjectStore, body: bytes) -> dict[str, float]:
    """Does what a POST to /settings asks for; gives the settings after it."""
    try:
        asked = json.loads(body)
        reset = asked.pop("reset", False)
        store.configure(**asked)
    except (AttributeError, TypeError, ValueError) as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
    if reset:
        store.reset()
    return {"latency": store.latency, "failure_rate": store.failure_rate}


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted; prints the address first."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.object_store", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", help="serve its files as objects of every bucket")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds per request (default 0)"
    )
    parser.add_argument(
        "--failure_rate",
        type=float,
        default=0.0,
        help="share of requests that get a 503 (default 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of failures (default 0)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    try:
        store = ObjectStore(**vars(parser.parse_args(argv)))
    except UserError as error:
        print(f"object_store: {error}", file=sys.stderr)
        return 1
    with store:
        print(store.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
