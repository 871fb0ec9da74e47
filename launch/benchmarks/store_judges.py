"""Other formats that hold the fields of a store, and what reads them.

All read the same windows of consecutive times into float32 arrays, one a variable.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorstore as ts
import xarray
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipeline.files import Folder
from pipeline.layout import array_metadata
from pipeline.store import Store

Fields = dict[str, np.ndarray]
"""[time, level, latitude, longitude] by variable, or without level."""

Reader = Callable[[int, int], Fields]
"""Fields from a first time to behind the last."""


def make_judges(
    store: Store, folder: str
) -> tuple[dict[str, Reader], dict[str, Reader]]:
    """Writes the fields of a store anew, and gives readers by name.

    Args:
      store: in the layout `variables`.
      folder: for what is written.

    Returns:
      Readers of compressed data, that of the store itself by another library among
      them, and of uncompressed data.
    """
    compressed = {"xarray_zarr_sharded": xarray_reader(store.path)}
    uncompressed = {}
    path = f"{folder}/unsharded"
    compressed["tensorstore_unsharded"] = write_zarr(store, path, sharded=False)
    compressed["xarray_zarr_unsharded"] = xarray_reader(path)
    path = f"{folder}/array_record"
    # Its fastest codec, and each record in a group of its own, to be found at once.
    compressed["array_record"] = write_records(store, path, "group_size:1,snappy")
    uncompressed["array_record_uncompressed"] = write_records(
        store, f"{path}_uncompressed", "group_size:1,uncompressed"
    )
    for sharded in (True, False):
        name = "sharded" if sharded else "unsharded"
        path = f"{folder}/{name}_uncompressed"
        uncompressed[f"tensorstore_{name}_uncompressed"] = write_zarr(
            store, path, sharded=sharded, compressed=False
        )
    return compressed, uncompressed


def write_zarr(
    store: Store, path: str, sharded: bool, compressed: bool = True
) -> Reader:
    """Zarr v3, read by TensorStore in the way that `Store` reads.

    Unsharded, a chunk is a whole field; everything else is as in the store.
    """
    context = ts.Context()
    arrays: dict[str, ts.TensorStore] = {}
    os.makedirs(path)
    with open(f"{path}/zarr.json", "w") as file:
        json.dump({"zarr_format": 3, "node_type": "group", "attributes": {}}, file)
    for name in store.variables:
        metadata = _metadata(store, name, sharded, compressed)
        arrays[name] = ts.open(
            {
                "driver": "zarr3",
                "kvstore": Folder(f"{path}/{name}").url,
                "metadata": metadata,
                "recheck_cached_data": "open",
            },
            context=context,
            create=True,
        ).result()
        for first, last in _shards(store):
            fields = store.read(name, np.arange(first, last))
            arrays[name][first:last].write(fields).result()

    def read(first: int, last: int) -> Fields:
        fields, pending = {}, []
        with ts.Batch() as batch:
            for name, array in arrays.items():
                view = array[first:last].translate_to[0]
                fields[name] = np.empty(view.shape, np.float32)
                pending.append(ts.array(fields[name]).write(view, batch=batch))
        for future in pending:
            future.result()
        return fields

    return read


def _metadata(
    store: Store, name: str, sharded: bool, compressed: bool
) -> dict[str, Any]:
    metadata = array_metadata(store.plan, name)
    (sharding,) = metadata["codecs"]
    codecs = sharding["configuration"]["codecs"]
    if not compressed:
        codecs = [codec for codec in codecs if codec["name"] != "blosc"]
    sharding["configuration"]["codecs"] = codecs
    if not sharded:
        metadata["codecs"] = codecs
        chunk = [1, *metadata["shape"][1:]]
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = chunk
    return metadata


def xarray_reader(path: str) -> Reader:
    """Zarr v3, read by xarray with zarr-python."""
    dataset = xarray.open_zarr(path, chunks=None, consolidated=False)
    names = [name for name in dataset.data_vars if "time" in dataset[name].dims]

    def read(first: int, last: int) -> Fields:
        window = dataset[names].isel(time=slice(first, last)).load()
        return {str(name): field.values for name, field in window.data_vars.items()}

    return read


def write_records(store: Store, path: str, options: str) -> Reader:
    """ArrayRecord: a record is one time of all variables."""
    writer = ArrayRecordWriter(path, options)
    for first, last in _shards(store):
        times = np.arange(first, last)
        fields = store.read_many(dict.fromkeys(store.variables, (times, slice(None))))
        for step in range(last - first):
            parts = [fields[name][step].tobytes() for name in store.variables]
            writer.write(b"".join(parts))
    writer.close()
    # It would read ahead, which random access has no use for.
    reader = ArrayRecordReader(path, options="readahead_buffer_size:0")
    shapes = {name: store.plan.shape(name)[1:] for name in store.variables}

    def read(first: int, last: int) -> Fields:
        records = reader.read(list(range(first, last)))
        fields = {
            name: np.empty((len(records), *shape), np.float32)
            for name, shape in shapes.items()
        }
        for step, record in enumerate(records):
            start = 0
            for field in fields.values():
                values = np.frombuffer(record, np.float32, field[step].size, start)
                field[step] = values.reshape(field[step].shape)
                start += values.nbytes
        return fields

    return read


def _shards(store: Store) -> list[tuple[int, int]]:
    """Times of the shards of an array, first and behind the last."""
    plan = store.plan
    return [plan.shard_times(i) for i in range(plan.shards(plan.variables[0]))]
