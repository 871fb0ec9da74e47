"""The stand-in object store, used by etils, TensorBoard and TensorStore."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorstore as ts

from launch.object_store import ObjectStore, Statistics
from pipeline.files import Folder
from tests.launch.test_object_store import QUICK_RETRIES, http, open_quick, results


def epath_program(store, source, **variables):
    """Runs a program with `folder`, a path in a bucket; returns what it printed."""
    preparation = (
        "import fsspec, warnings\n"
        "fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False\n"
        "warnings.simplefilter('ignore')\n"
        "from etils import epath\n"
        "folder = epath.Path('gs://bucket/a store')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", preparation + textwrap.dedent(source)],
        env={**os.environ, **store.environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_paths_of_files(store):
    pytest.importorskip("gcsfs", reason="needs the extra `cloud`")
    epath_program(
        store,
        """
        def names(path):
            return sorted(child.name for child in path.iterdir())

        file = folder / "a b" / "c#%é?.txt"
        assert not file.exists() and not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        assert not folder.exists()  # there are no folders
        file.write_text("ä")
        assert file.read_text() == "ä" and file.stat().length == 2
        assert file.stat().mtime > 1e9
        assert file.exists() and file.is_file() and not file.is_dir()
        assert (folder / "a b").is_dir() and folder.is_dir()
        file.write_text("")
        assert file.read_text() == ""
        big = bytes(range(256)) * (12 << 12)
        (folder / "big").write_bytes(big)  # in chunks
        assert (folder / "big").read_bytes() == big
        assert names(folder) == ["a b", "big"]
        assert [path.name for path in folder.glob("*/*.txt")] == ["c#%é?.txt"]

        for i in range(30):
            (folder / "a b" / "many" / f"{i % 3}" / f"{i}").write_text(f"{i}")
        (folder / "a b" / "many").rename(folder / "moved")
        assert names(folder / "a b") == ["c#%é?.txt"]
        assert names(folder / "moved" / "1") == sorted(str(i) for i in range(1, 30, 3))
        assert (folder / "moved" / "1" / "7").read_text() == "7"
        (folder / "moved").rmtree()
        assert names(folder) == ["a b", "big"]
        (folder / "big").replace(file)
        assert file.read_bytes() == big
        file.unlink()
        assert not folder.exists()
        try:
            file.read_text()
        except FileNotFoundError:
            pass
        else:
            raise AssertionError
        # A list of more than a page.
        fs = epath.backend.fsspec_backend.fs(folder)
        fs.pipe({f"{folder}/{i}": b"" for i in range(1234)})
        assert len(names(folder)) == 1234
        """,
    )
    assert store.statistics().list > 3


def test_paths_do_not_mind_failures(store):
    pytest.importorskip("gcsfs", reason="needs the extra `cloud`")
    store.configure(failure_rate=0.2)
    epath_program(
        store,
        """
        for i in range(4):
            (folder / f"{i}").write_text(f"{i}")
            assert (folder / f"{i}").read_text() == f"{i}"
        (folder / "0").rename(folder / "4")
        (folder / "1").unlink()
        assert sorted(x.name for x in folder.iterdir()) == ["2", "3", "4"]
        """,
    )
    assert store.statistics().failed > 0


def test_events_of_tensorboard(store):
    pytest.importorskip("google.cloud.storage", reason="needs the extra `cloud`")
    epath_program(
        store,
        """
        from google.cloud import storage
        from tensorboardX import SummaryWriter

        assert not storage.Client().get_bucket("bucket").hierarchical_namespace_enabled
        with SummaryWriter(f"{folder}/events") as writer:
            for step in range(300):
                writer.add_scalar("loss", 1 / (step + 1), step)
        """,
    )
    (events,) = store.objects.page("bucket", 9, prefix="a store/events/").objects
    assert store.objects.get("bucket", events).content.count(b"loss") == 300


def sharded_array(url, context=None):
    """An array of 8 x 6 x 4 float32 in shards of 4 x 6 x 4, chunks of 1 x 6 x 4."""
    spec = {
        "driver": "zarr3",
        "kvstore": url,
        "metadata": {
            "shape": [8, 6, 4],
            "data_type": "float32",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [4, 6, 4]},
            },
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {"chunk_shape": [1, 6, 4]},
                }
            ],
        },
    }
    return ts.open(spec, create=True, open=True, context=context).result()


VALUES = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)


def test_sharded_array(store, folder):
    sharded_array(folder.url).write(VALUES).result()
    assert folder.names() == ["c/0/0/0", "c/1/0/0", "zarr.json"]
    array = sharded_array(folder.url)
    store.reset()
    np.testing.assert_array_equal(array[5].read().result(), VALUES[5])
    # The shard's index, then the chunk.
    index_bytes = 4 * 16 + 4
    assert store.statistics() == Statistics(
        get=2, bytes_sent=index_bytes + VALUES[5].nbytes
    )
    np.testing.assert_array_equal(array.read().result(), VALUES)


def test_failures_lose_nothing(store):
    store.configure(failure_rate=0.2)
    files = open_quick("gs://bucket/x/")
    contents = {f"{i:03}": os.urandom(i) for i in range(300)}
    results(files.write(name, content) for name, content in contents.items())
    counted = store.statistics()
    # Each failure was followed by one more request, until it was served.
    assert counted.failed > 20 and counted.put == 300 + counted.failed
    found = {name: files.read(name) for name in contents}
    assert {n: f.result().value for n, f in found.items()} == contents
    counted = store.statistics()
    assert counted.put + counted.get == 600 + counted.failed
    results(files.write(name, None) for name in list(contents)[:100])
    assert sorted(files.list().result()) == [n.encode() for n in list(contents)[100:]]


def test_failures_tear_no_shard(store):
    """Two writers change chunks of the same shards."""
    store.configure(failure_rate=0.5)
    arrays = [
        sharded_array("gs://bucket/x/", ts.Context(QUICK_RETRIES)) for _ in range(2)
    ]
    results(
        array[i].write(VALUES[i])
        for first, array in enumerate(arrays)
        for i in range(first, 8, 2)
    )
    assert store.statistics().failed > 0
    store.configure(failure_rate=0)
    array = sharded_array("gs://bucket/x/")
    np.testing.assert_array_equal(array.read().result(), VALUES)


def test_folder_is_served_and_never_changed(tmp_path, enter):
    local = Folder(tmp_path / "planets")
    local.write("store/a b", b"0123456789")
    local.write("store/empty", b"")
    local.write("store/c/d", b"old")
    sharded_array(local.child("array").url).write(VALUES).result()
    (tmp_path / "secret").write_bytes(b"secret")
    before = local.read_many(local.names())
    with ObjectStore(folder=tmp_path / "planets") as store:
        enter(store)
        folder = Folder("gs://bucket/store")
        assert folder.names() == ["a b", "c/d", "empty"]
        assert folder.read("a b") == b"0123456789" and folder.read("empty") == b""
        part = folder.kvstore.read("a b", byte_range=slice(2, 5)).result()
        assert part.value == b"234"
        assert folder.read("c") is None and not folder.exists("e")
        array = sharded_array("gs://bucket/array/")
        np.testing.assert_array_equal(array.read().result(), VALUES)

        folder.write("a b", b"new")
        folder.write("e", b"more")
        folder.delete("c/d")
        assert folder.names() == ["a b", "e", "empty"]
        assert folder.read("a b") == b"new" and folder.read("c/d") is None
        folder.write("c/d", b"again")
        assert folder.read("c/d") == b"again"
        assert Folder("gs://other/store").names() == ["a b", "c/d", "empty"]
        assert local.read_many(local.names()) == before

        # A file that is replaced is another generation of its object.
        other = Folder("gs://other/store").kvstore
        generation = other.read("c/d").result().stamp.generation
        local.write("store/c/d", b"other")
        os.utime(tmp_path / "planets/store/c/d", ns=(0, 1))
        found = other.read("c/d", if_not_equal=generation).result()
        assert found.value == b"other"

        for name in ("..%2Fsecret", "store%2F..%2F..%2Fsecret", "%2Fetc%2Fpasswd"):
            url = f"{store.url}/storage/v1/b/bucket/o/{name}?alt=media"
            assert http(url)[0] == 404
