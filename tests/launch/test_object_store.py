"""The stand-in object store, asked by TensorStore as a store and by plain HTTP."""

import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent import futures

import numpy as np
import pytest
import tensorstore as ts

from launch import object_store
from launch.object_store import ObjectStore, Statistics
from launch.object_store.__main__ import main
from pipeline.errors import UserError
from pipeline.files import Folder

# TensorStore waits a second or more before it tries again.
QUICK_RETRIES = {
    "gcs_request_retries": {"initial_delay": "2ms", "max_delay": "20ms"},
}


def open_quick(url):
    """A key-value store that tries again at once."""
    return ts.KvStore.open(url, context=ts.Context(QUICK_RETRIES)).result()


def results(pending):
    return [future.result() for future in list(pending)]


def http(url, method="GET", body=None, **headers):
    """Status, headers and body of an answer, whatever its status."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_files_are_written_read_listed_and_deleted(folder):
    assert folder.names() == [] and folder.read("a") is None
    contents = {"a": b"1", "b c/d+e%&?#.txt": b"2" * 3_000_000, "b c/é/f": b""}
    for name, content in contents.items():
        assert not folder.exists(name)
        folder.write(name, content)
        assert folder.exists(name)
    assert folder.read_many([*contents, "b"]) == {**contents, "b": None}
    assert folder.names() == sorted(contents)
    assert folder.names("b c") == ["b c/d+e%&?#.txt", "b c/é/f"]
    assert folder.child("b c").names() == ["d+e%&?#.txt", "é/f"]
    folder.write("a", b"new")
    assert folder.read("a") == b"new"
    folder.delete("a")
    folder.delete("a")
    assert not folder.exists("a") and folder.read("a") is None
    assert folder.names("b c") == folder.names()
    assert Folder("gs://other").names() == []


@pytest.mark.parametrize(
    "part", [slice(0, 1), slice(3, 7), slice(5, None), slice(-4, None)]
)
def test_parts_of_objects(folder, part):
    folder.write("a", b"0123456789")
    read = folder.kvstore.read("a", byte_range=part).result().value
    assert read == b"0123456789"[part]


def test_ranges_by_http(store, folder):
    folder.write("a", b"0123456789")
    url = f"{store.url}/storage/v1/b/bucket/o/a%20store%2Fa?alt=media"
    for asked, status, content, told in [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ]:
        answer = http(url, Range=asked)
        assert (answer[0], answer[2]) == (status, content)
        assert answer[1]["Content-Range"] == told


def test_part_past_the_end_is_an_error(folder):
    folder.write("a", b"0123456789")
    for part in (slice(20, 30), slice(5, 15)):
        with pytest.raises(ValueError, match="OUT_OF_RANGE|byte range"):
            folder.kvstore.read("a", byte_range=part).result()


def test_conditions_on_generations(store, folder):
    files = folder.kvstore
    missing = files.read("a").result().stamp.generation
    first = files.write("a", b"1", if_equal=missing).result().generation
    # Refused: it exists, so it is not missing any more.
    assert files.write("a", b"x", if_equal=missing).result().generation == b""
    second = files.write("a", b"2", if_equal=first).result().generation
    assert len({missing, first, second}) == 3
    assert files.read("a", if_not_equal=second).result().state == "unspecified"
    assert files.read("a", if_not_equal=first).result().value == b"2"
    url = f"{store.url}/storage/v1/b/bucket/o/a%20store%2Fa?alt=media"
    generation = http(url)[1]["x-goog-generation"]
    assert http(f"{url}&ifGenerationMatch={generation}")[2] == b"2"
    assert http(f"{url}&ifGenerationMatch={int(generation) - 1}")[0] == 412
    assert files.write("a", None, if_equal=first).result().generation == b""
    assert files.read("a").result().value == b"2"
    files.write("a", None, if_equal=second).result()
    assert files.read("a").result().state == "missing"
    assert files.write("a", b"3", if_equal=second).result().generation == b""
    third = files.write("a", b"3").result().generation
    assert third not in {first, second}


def test_writers_of_one_object_lose_no_change(store, folder):
    store.configure(latency=0.002)  # time for the writers to meet
    files = folder.kvstore

    def add(times):
        refused = 0
        while times:
            found = files.read("n").result()
            content = b"%d" % (int(found.value or b"0") + 1)
            stamp = files.write("n", content, if_equal=found.stamp.generation).result()
            if stamp.generation == b"":
                refused += 1
            else:
                times -= 1
        return refused

    with futures.ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(add, [25] * 4))
    assert folder.read("n") == b"100"
    assert refused > 0


def test_readers_see_whole_objects(folder):
    size = 1 << 20
    folder.write("a", bytes(size))
    enough = threading.Event()

    def write(value):
        while not enough.is_set():
            folder.write("a", bytes([value]) * size)

    with futures.ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, value) for value in (1, 2)]
        seen = []
        try:
            while len(seen) < 40 or not {1, 2} <= set(seen):
                content = folder.read("a")
                assert len(content) == size and len(set(content)) == 1
                seen.append(content[0])
        finally:
            enough.set()
        results(writers)


@pytest.mark.parametrize("before", [None, b"old"])
def test_broken_upload_leaves_nothing(store, folder, before):
    if before is not None:
        folder.write("a", before)
    store.reset()
    address = urllib.parse.urlsplit(store.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /upload/storage/v1/b/bucket/o?uploadType=media&name=a%20store%2Fa"
            b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(999)
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # the server is done with it
    assert store.statistics() == Statistics()
    assert folder.read("a") == before


def test_lists_of_more_than_one_page(store, folder):
    names = [f"{i % 7}/{i:04}" for i in range(2345)]
    results(folder.kvstore.write(name, b"") for name in names)
    store.reset()
    assert folder.names() == sorted(names)
    assert store.statistics() == Statistics(list=3)
    assert folder.names("3") == sorted(n for n in names if n.startswith("3/"))

    prefix = "a%20store%2F5%2F"
    url = f"{store.url}/storage/v1/b/bucket/o?prefix={prefix}&maxResults=100"
    found, token, pages = [], "", 0
    while token is not None:
        page = json.loads(http(f"{url}&pageToken={token}")[2])
        found += [item["name"] for item in page["items"]]
        token, pages = page.get("nextPageToken"), pages + 1
    assert found == [f"a store/{n}" for n in sorted(names) if n.startswith("5/")]
    assert pages == 4


def test_lists_tell_sizes_and_generations(store, folder):
    folder.write("a", b"12345")
    url = f"{store.url}/storage/v1/b/bucket/o"
    (item,) = json.loads(http(url)[2])["items"]
    assert (item["name"], item["size"]) == ("a store/a", "5")
    _, headers, _ = http(f"{url}/a%20store%2Fa?alt=media")
    assert headers["x-goog-generation"] == item["generation"]


def test_lists_by_prefixes(store):
    names = ["a", "a/b/c", "a/b/d", "a/e", "a-b/c", "a/", "f//g", "h"]
    for name in names:
        store.objects.put("bucket", name, b"")

    def listed(**query):
        found, token = [], ""
        while token is not None:
            asked = urllib.parse.urlencode({**query, "pageToken": token})
            page = json.loads(http(f"{store.url}/storage/v1/b/bucket/o?{asked}")[2])
            entries = [item["name"] for item in page["items"]] + page["prefixes"]
            assert len(entries) <= int(query.get("maxResults", 1000))
            assert page["kind"] == "storage#objects"
            found += sorted(entries)
            token = page.get("nextPageToken")
        return found

    top = ["a", "a-b/", "a/", "f/", "h"]
    assert listed(delimiter="/") == top
    assert listed(delimiter="/", prefix="a") == top[:3]
    # A folder's own marker is an object in it, as in GCS.
    assert listed(delimiter="/", prefix="a/") == ["a/", "a/b/", "a/e"]
    assert listed(delimiter="b/", prefix="a") == ["a", "a-b/", "a/", "a/b/", "a/e"]
    assert listed(delimiter="/", prefix="f/") == ["f//"]
    assert listed(delimiter="/", prefix="no") == []
    # However small the pages are, they tell the same, in order.
    for size in (1, 2, 3):
        assert listed(delimiter="/", maxResults=size) == top
        assert listed(maxResults=size) == sorted(names)
    assert listed(startOffset="a/b/d", endOffset="h") == ["a/b/d", "a/e", "f//g"]


def test_moves(store, folder):
    folder.write("a", b"1")
    folder.write("b", b"2")
    objects = f"{store.url}/storage/v1/b/bucket/o/a%20store%2F"
    old = json.loads(http(f"{objects}b")[2])["generation"]
    refused = http(f"{objects}a/moveTo/o/a%20store%2Fb?ifGenerationMatch=0", "POST")
    assert refused[0] == 412 and folder.read("a") == b"1"
    status, _, told = http(f"{objects}a/moveTo/o/a%20store%2Fb", "POST", b"")
    told = json.loads(told)
    assert (status, told["name"], told["size"]) == (200, "a store/b", "1")
    assert told["generation"] != old
    assert folder.names() == ["b"] and folder.read("b") == b"1"
    assert http(f"{objects}a/moveTo/o/c", "POST")[0] == 404
    assert http(f"{objects}b/moveTo/o/a%20store%2Fb", "POST")[0] == 400
    assert store.statistics().move == 4


def test_moves_take_turns(store):
    """Of many who move one object, one succeeds; nothing is lost or doubled."""
    for i in range(20):
        store.objects.put("bucket", f"from/{i}", b"%d" % i)

    def move(mover):
        url = f"{store.url}/storage/v1/b/bucket/o/from%2F"
        to = f"moveTo/o/{mover}%2F"
        return [http(f"{url}{i}/{to}{i}", "POST")[0] for i in range(20)]

    with futures.ThreadPoolExecutor(4) as pool:
        statuses = np.array(list(pool.map(move, range(4))))
    assert ((statuses == 200).sum(axis=0) == 1).all()
    assert ((statuses == 404).sum(axis=0) == 3).all()
    names = store.objects.page("bucket", 100).objects
    assert sorted(name.split("/")[1] for name in names) == sorted(map(str, range(20)))


@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\r", b"\r\n\r\n--", b"--b", b"\n--x--\n\n"]
)
def test_uploads_with_their_metadata(store, line, content):
    body = line.join(
        [
            b"--b",
            b"content-type: application/json",
            b"",
            b'{"name": "a/\\u00e9"}',
            b"--b",
            b"content-type: text/plain",
            b"",
            content,
            b"--b--",
        ]
    )
    url = f"{store.url}/upload/storage/v1/b/bucket/o?uploadType=multipart"
    content_type = {"Content-Type": 'multipart/related; boundary="b"'}
    status, _, told = http(url, "POST", body, **content_type)
    assert (status, json.loads(told)["name"]) == (200, "a/é")
    assert store.objects.get("bucket", "a/é").content == content
    assert http(f"{url}&ifGenerationMatch=0", "POST", body, **content_type)[0] == 412
    for bad in (body[:-4], body[1:], b"", body.replace(b"{", b"["), b"--b--"):
        assert http(url, "POST", bad, **content_type)[0] == 400
    assert http(url, "POST", body)[0] == 400


def begin_upload(store, query="&name=a", body=b""):
    url = f"{store.url}/upload/storage/v1/b/bucket/o?uploadType=resumable{query}"
    status, headers, _ = http(url, "POST", body)
    assert status == 200
    return headers["Location"]


def send_chunk(location, content_range, chunk=b"", method="PUT"):
    """Status, and bytes that the server holds or the name of the object."""
    headers = {"Content-Range": content_range} if content_range else {}
    status, headers, body = http(location, method, chunk, **headers)
    if status == 200:
        return status, json.loads(body)["name"]
    return status, headers["Range"]


def test_resumable_uploads(store):
    unit = 2**18
    content = os.urandom(2 * unit + 5)
    location = begin_upload(store)
    assert send_chunk(location, "bytes */*") == (308, None)
    first = f"bytes 0-{unit - 1}/*", content[:unit]
    assert send_chunk(location, *first) == (308, f"bytes=0-{unit - 1}")
    # Nothing that does not fit is taken, and nothing is there before all is.
    for content_range, chunk in [
        first,
        (f"bytes {unit}-{unit + 9}/*", bytes(10)),
        (f"bytes {unit}-{2 * unit - 1}/*", bytes(10)),
        (f"bytes {unit}-{2 * unit - 1}/{unit}", bytes(unit)),
        ("bytes */*", b"x"),
        ("bytes x", b"x"),
    ]:
        assert send_chunk(location, content_range, chunk)[0] == 400
    assert store.objects.find("bucket", "a") is None
    assert send_chunk(location, "bytes */*") == (308, f"bytes=0-{unit - 1}")
    last = f"bytes {unit}-{len(content) - 1}/{len(content)}"
    assert send_chunk(location, last, content[unit:], "POST") == (200, "a")
    assert store.objects.get("bucket", "a").content == content
    assert send_chunk(location, "bytes */*")[0] == 404
    assert store.statistics().begin == 1

    # In one, by the name in the metadata; empty; and onto an object that is there.
    location = begin_upload(store, "", b'{"name": "b"}')
    assert send_chunk(location, None, b"whole") == (200, "b")
    assert store.objects.get("bucket", "b").content == b"whole"
    assert send_chunk(begin_upload(store, "&name=c"), "bytes */0") == (200, "c")
    location = begin_upload(store, "&name=b&ifGenerationMatch=0")
    assert send_chunk(location, None, b"other")[0] == 412
    assert store.objects.get("bucket", "b").content == b"whole"

    location = begin_upload(store, "&name=d")
    assert http(location, "DELETE")[0] == 499
    assert send_chunk(location, None, b"late")[0] == 404


def test_failures_follow_the_seed():
    def statuses(seed):
        with ObjectStore(failure_rate=0.5, seed=seed) as store:
            url = f"{store.url}/storage/v1/b/bucket/o"
            return [http(url)[0] for _ in range(40)]

    assert statuses(1) == statuses(1) != statuses(2)
    assert set(statuses(1)) == {200, 503}


def test_requests_wait_all_at_once():
    asked = {
        "get": "GET /storage/v1/b/bucket/o/a",
        "list": "GET /storage/v1/b/bucket/o",
        "put": "POST /upload/storage/v1/b/bucket/o?uploadType=media&name=a",
        "begin": "POST /upload/storage/v1/b/bucket/o?uploadType=resumable&name=a",
        "move": "POST /storage/v1/b/bucket/o/a/moveTo/o/b",
        "delete": "DELETE /storage/v1/b/bucket/o/a",
    }
    with ObjectStore(latency=600) as store:
        address = urllib.parse.urlsplit(store.url)
        connections = []
        for request in [*asked.values()] * 16:
            connections.append(
                socket.create_connection((address.hostname, address.port))
            )
            connections[-1].sendall(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        expected = Statistics(**dict.fromkeys(asked, 16))
        while store.statistics() != expected:
            time.sleep(0.01)
        answered, _, _ = select.select(connections, [], [], 0.2)
        assert answered == []
    # Closing has ended every wait.
    for connection in connections:
        connection.close()


def test_statistics_are_exact(store, folder):
    assert store.statistics() == Statistics()
    folder.write("a", b"12345")
    folder.write("b", b"123")
    assert folder.read("a") == b"12345"
    assert folder.read("c") is None
    assert folder.kvstore.read("a", byte_range=slice(1, 3)).result().value == b"23"
    assert folder.exists("a") and not folder.exists("c")
    assert folder.names() == ["a", "b"]
    folder.delete("b")
    expected = Statistics(
        get=5, put=2, list=1, delete=1, bytes_sent=7, bytes_received=8
    )
    assert store.statistics() == expected
    assert json.loads(http(f"{store.url}/statistics")[2]) == {
        "get": 5,
        "put": 2,
        "list": 1,
        "delete": 1,
        "begin": 0,
        "move": 0,
        "failed": 0,
        "bytes_sent": 7,
        "bytes_received": 8,
    }
    assert store.statistics() == expected
    store.reset()
    assert store.statistics() == Statistics()


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/", 404),
        ("GET", "/storage/v1/b/bucket/o?versions=true", 400),
        ("GET", "/storage/v1/b/bucket/o?maxResults=0", 400),
        ("GET", "/storage/v1/b/bucket/o?pageToken=%21", 400),
        ("GET", "/storage/v1/b/bucket/o/a?ifGenerationMatch=x", 400),
        ("GET", "/storage/v1/b/bucket/o/a?ifGenerationMatch=5", 412),
        ("POST", "/storage/v1/b/bucket/o?uploadType=media&name=a", 404),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=other&name=a", 400),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=media", 400),
        ("DELETE", "/storage/v1/b/bucket/o/a", 404),
        ("DELETE", "/storage/v1/b/bucket/o", 404),
        ("PUT", "/storage/v1/b/bucket/o/a", 404),
        ("GET", "/storage/v1/b/bucket/o/a/b", 404),
        ("GET", "/storage/v1/b", 404),
        ("GET", "/storage/v1/b/bucket/o?matchGlob=a", 400),
        ("POST", "/storage/v1/b/bucket/o/a/copyTo/b/bucket/o/b", 404),
        ("POST", "/batch/storage/v1", 404),
        ("PUT", "/upload/storage/v1/b/bucket/o?upload_id=7", 404),
        ("DELETE", "/upload/storage/v1/b/bucket/o?upload_id=7", 404),
        ("PATCH", "/storage/v1/b/bucket/o/a", 501),
    ],
)
def test_what_is_not_served_is_told(store, method, path, status):
    body = None if method == "GET" else b"content"
    assert http(store.url + path, method, body)[0] == status
    assert Folder("gs://bucket").names() == []


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"latency": -1}, "latency"),
        ({"failure_rate": 1.5}, "failure rate"),
        ({"failure_rate": float("nan")}, "failure rate"),
        ({"folder": "no such folder"}, "no such folder"),
    ],
)
def test_bad_settings_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        ObjectStore(**settings)


def test_taken_port_is_told(store):
    port = urllib.parse.urlsplit(store.url).port
    with pytest.raises(UserError, match=f"port {port}"):
        ObjectStore(port=port)


def test_settings_by_http(store):
    url = f"{store.url}/settings"
    store.count(get=3)
    status, _, body = http(url, "POST", b'{"latency": 0.01}')
    assert (status, json.loads(body)) == (200, {"latency": 0.01, "failure_rate": 0.0})
    assert store.statistics().get == 3
    http(url, "POST", b'{"failure_rate": 1, "reset": true}')
    assert (store.latency, store.failure_rate) == (0.01, 1)
    assert store.statistics() == Statistics()
    for bad in (
        b"",
        b"[]",
        b'{"latency": "long"}',
        b'{"speed": 1}',
        b'{"latency": -1}',
    ):
        assert http(url, "POST", bad)[0] == 400
    assert store.latency == 0.01


def test_process_serves_other_processes(tmp_path):
    (tmp_path / "a").write_bytes(b"from the folder")
    command = [sys.executable, "-m", "launch.object_store", f"--folder={tmp_path}"]
    root = pathlib.Path(object_store.__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            url = server.stdout.readline().strip()
            client = (
                "from pipeline.files import Folder\n"
                "folder = Folder('gs://bucket')\n"
                "folder.write('b', folder.read('a') + b' to the store')\n"
            )
            subprocess.run(
                [sys.executable, "-c", client],
                cwd=root,
                env={**os.environ, **object_store.environment(url)},
                check=True,
            )
            found = http(f"{url}/storage/v1/b/bucket/o/b?alt=media")[2]
            assert found == b"from the folder to the store"
            counted = json.loads(http(f"{url}/statistics")[2])
            assert (counted["get"], counted["put"]) == (2, 1)
        finally:
            server.terminate()


def test_process_tells_mistakes_in_one_line(capsys):
    assert main(["--latency=-1"]) == 1
    assert (
        capsys.readouterr().err == "object_store: latency is -1.0 s: give 0 or more\n"
    )
