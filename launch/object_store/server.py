"""The server of a stand-in store: which requests there are, and what they cost."""

import dataclasses
import datetime
import http.server
import json
import os
import random
import re
import socket
import sys
import threading
import urllib.parse
from http import HTTPStatus
from typing import Any

from launch.object_store.objects import Object, Objects, Refusal
from launch.object_store.uploads import ResumableUploads, split_multipart
from pipeline.errors import UserError

_PAGE = 1000  # entries in a page of a list, at most, as in GCS
_BUCKET = re.compile("/storage/v1/b/([^/]+)")
_LIST = re.compile(_BUCKET.pattern + "/o")
_OBJECT = re.compile(_LIST.pattern + "/([^/]+)")
_MOVE = re.compile(_OBJECT.pattern + "/moveTo/o/([^/]+)")
_DOWNLOAD = re.compile("/download" + _OBJECT.pattern)
_UPLOAD = re.compile("/upload" + _LIST.pattern)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# What would change a list but is not served.
_LIST_OPTIONS = {"includeTrailingDelimiter", "matchGlob", "softDeleted", "versions"}


_CANCELLED = 499  # how GCS says that an upload is no more

_Query = dict[str, str]


def environment(url: str) -> dict[str, str]:
    """Environment variables of a process whose gs:// is the store at an address."""
    return {
        "TENSORSTORE_GCS_HTTP_URL": url,
        # Any token will do; with none, TensorStore looks for Google's credentials.
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "unused",
        # For gcsfs and google-cloud-storage, the latter without credentials.
        "STORAGE_EMULATOR_HOST": url,
        # Or gcsfs, too, looks for credentials, even for an emulator.
        "FSSPEC_GCS_TOKEN": "anon",
        # Or gcsfs asks for the kind of every bucket, in gRPC, which is not served.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


@dataclasses.dataclass
class Statistics:
    """What a store was asked for since it started or was last reset.

    Attributes:
      get: reads of objects, of parts of them, of their metadata, and of buckets'.
      put: uploads received whole, and chunks of resumable ones.
      begin: resumable uploads begun.
      move: objects renamed.
      list: pages of lists.
      delete: deletions.
      failed: how many of all those were answered with an injected 503.
      bytes_sent: of objects, sent.
      bytes_received: in uploads, failed ones included.
    """

    get: int = 0
    put: int = 0
    begin: int = 0
    move: int = 0
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
        self.objects = Objects(folder)
        self.uploads = ResumableUploads(self.objects)
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

    def answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            # Also a request that is refused leaves none of its body behind.
            body = self._body()
            for method, pattern, serve in _ROUTES:
                match = pattern.fullmatch(url.path)
                if match and method == self.command:
                    names = map(urllib.parse.unquote, match.groups())
                    serve(self, *names, query=query, body=body)
                    return
            raise Refusal(HTTPStatus.NOT_FOUND, f"{url.path} is not served here")
        except Refusal as refusal:
            error = {"code": refusal.status, "message": str(refusal)}
            self._reply_json({"error": error}, refusal.status)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format, *args):
        pass

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the connection broke within a body")
        return body

    def tell_statistics(self, query: _Query, body: bytes) -> None:
        self._reply_json(dataclasses.asdict(self.server.store.statistics()))

    def change_settings(self, query: _Query, body: bytes) -> None:
        store = self.server.store
        try:
            asked = json.loads(body)
            reset = asked.pop("reset", False)
            store.configure(**asked)
        except (AttributeError, TypeError, ValueError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        if reset:
            store.reset()
        settings = {"latency": store.latency, "failure_rate": store.failure_rate}
        self._reply_json(settings)

    def get_bucket(self, bucket: str, query: _Query, body: bytes) -> None:
        self._admit("get")
        self._reply_json({"kind": "storage#bucket", "id": bucket, "name": bucket})

    def list_objects(self, bucket: str, query: _Query, body: bytes) -> None:
        self._admit("list")
        unknown = _LIST_OPTIONS & query.keys()
        if unknown:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{min(unknown)} is not served here")
        page = self.server.store.objects.page(
            bucket,
            min(_number(query, "maxResults", least=1) or _PAGE, _PAGE),
            _decode_token(query.get("pageToken", "")),
            query.get("prefix", ""),
            query.get("delimiter", ""),
            query.get("startOffset", ""),
            query.get("endOffset", ""),
        )
        found = page.objects.items()
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [_metadata(bucket, name, item) for name, item in found],
            "prefixes": page.prefixes,
        }
        if page.last is not None:
            answer["nextPageToken"] = page.last.encode().hex()
        self._reply_json(answer)

    def get_object(self, bucket: str, name: str, query: _Query, body: bytes) -> None:
        self._admit("get")
        expected = _number(query, "ifGenerationMatch")
        item = self.server.store.objects.get(bucket, name, expected)
        if item.generation == _number(query, "ifGenerationNotMatch"):
            self._reply(HTTPStatus.NOT_MODIFIED)
        elif query.get("alt") == "media":
            self._reply_media(item)
        else:
            self._reply_json(_metadata(bucket, name, item))

    def move_object(
        self, bucket: str, name: str, to: str, query: _Query, body: bytes
    ) -> None:
        self._admit("move")
        if name == to:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} has that name already")
        expected = _number(query, "ifGenerationMatch")
        item = self.server.store.objects.move(bucket, name, to, expected)
        self._reply_json(_metadata(bucket, to, item))

    def delete_object(self, bucket: str, name: str, query: _Query, body: bytes) -> None:
        self._admit("delete")
        expected = _number(query, "ifGenerationMatch")
        self.server.store.objects.delete(bucket, name, expected)
        self._reply(HTTPStatus.NO_CONTENT)

    def upload(self, bucket: str, query: _Query, body: bytes) -> None:
        store = self.server.store
        store.count(bytes_received=len(body))
        if "upload_id" in query:
            self._upload_chunk(bucket, query["upload_id"], body)
            return
        kind = query.get("uploadType")
        self._admit("begin" if kind == "resumable" else "put")
        name, content = query.get("name"), body
        if kind == "multipart":
            content_type = self.headers.get("Content-Type", "")
            name, content = split_multipart(content_type, body)
        elif kind == "resumable":
            name = name or _name_in(body)
        elif kind != "media":
            raise Refusal(HTTPStatus.BAD_REQUEST, f"no uploadType={kind}")
        if not name:
            raise Refusal(HTTPStatus.BAD_REQUEST, "need a name")
        expected = _number(query, "ifGenerationMatch")
        if kind == "resumable":
            number = store.uploads.begin(bucket, name, expected)
            path = self.path.partition("?")[0]
            location = f"{store.url}{path}?uploadType=resumable&upload_id={number}"
            self._reply(HTTPStatus.OK, headers={"Location": location})
        else:
            item = store.objects.put(bucket, name, content, expected)
            self._reply_json(_metadata(bucket, name, item))

    def _upload_chunk(self, bucket: str, number: str, chunk: bytes) -> None:
        self._admit("put")
        content_range = self.headers.get("Content-Range", "")
        done = self.server.store.uploads.add(number, content_range, chunk)
        if isinstance(done, int):
            headers = {"Range": f"bytes=0-{done - 1}"} if done else {}
            self._reply(HTTPStatus.PERMANENT_REDIRECT, headers=headers)
        else:
            self._reply_json(_metadata(bucket, *done))

    def cancel_upload(self, bucket: str, query: _Query, body: bytes) -> None:
        self._admit("delete")
        self.server.store.uploads.cancel(query.get("upload_id", ""))
        self._reply(_CANCELLED)

    def _admit(self, kind: str) -> None:
        """Counts a request and lets it wait; a failing one ends here."""
        store = self.server.store
        store.count(**{kind: 1})
        store.wait()
        if store.fails():
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "injected failure")

    def _reply_media(self, item: Object) -> None:
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
        status: HTTPStatus | int,
        content: bytes | memoryview = b"",
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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


def _number(query: _Query, parameter: str, least: int = 0) -> int | None:
    value = query.get(parameter)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < least:
        message = f"{parameter}={value} is not a number from {least}"
        raise Refusal(HTTPStatus.BAD_REQUEST, message)
    return int(value)


def _decode_token(token: str) -> str:
    try:
        return bytes.fromhex(token).decode()
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"bad pageToken {token}") from None


def _name_in(body: bytes) -> str | None:
    """The name that the metadata of an object hold, if there are any."""
    try:
        return json.loads(body or b"{}").get("name")
    except (AttributeError, ValueError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the metadata are no JSON") from None


def _metadata(bucket: str, name: str, item: Object) -> dict[str, str]:
    uploaded = datetime.datetime.fromtimestamp(item.time, datetime.UTC)
    time = uploaded.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        # GCS writes 64-bit integers as strings.
        "size": str(len(item.content)),
        "generation": str(item.generation),
        "metageneration": "1",
        "timeCreated": time,
        "updated": time,
    }


_ROUTES = [
    ("GET", re.compile("/statistics"), _Handler.tell_statistics),
    ("POST", re.compile("/settings"), _Handler.change_settings),
    ("GET", _BUCKET, _Handler.get_bucket),
    ("GET", _LIST, _Handler.list_objects),
    ("GET", _OBJECT, _Handler.get_object),
    ("GET", _DOWNLOAD, _Handler.get_object),
    ("DELETE", _OBJECT, _Handler.delete_object),
    ("POST", _MOVE, _Handler.move_object),
    ("POST", _UPLOAD, _Handler.upload),
    ("PUT", _UPLOAD, _Handler.upload),
    ("DELETE", _UPLOAD, _Handler.cancel_upload),
]
