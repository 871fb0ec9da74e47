"""Zarr stores of others as lazy xarray datasets, read through TensorStore.

Formats 2 and 3, under any address that TensorStore knows (a folder, gs://, s3://,
http://). xarray reads metadata and coordinates, by zarr-python on a view of
TensorStore's files; the values, which are what takes time, TensorStore reads itself,
and they are decoded here without copies that can be avoided.
"""

import asyncio
import functools
import sys
import urllib.parse
import warnings
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import tensorstore as ts
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from pipeline.files import Folder, one_line


def open_zarr(address: str) -> xarray.Dataset:
    """Opens a store; its values are read when they are asked for, as float32.

    As the Zarr specification has it, a chunk that does not exist reads as the fill
    value: NaN, unless the store says otherwise.

    Raises:
      OSError, ValueError, KeyError: if it cannot be opened.
    """
    folder = Folder(address)
    version = 3 if folder.exists("zarr.json") else 2
    with warnings.catch_warnings():
        # Stores without consolidated metadata open slowly; that is no fault.
        warnings.filterwarnings("ignore", "Failed to open Zarr store with con")
        # Other files beside the arrays are none of ours.
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        dataset = xarray.open_dataset(
            _FolderStore(folder),
            engine="zarr",
            zarr_format=version,
            chunks=None,
            cache=False,
            decode_timedelta=False,
        )
    fields = {
        name: xarray.Variable(
            array.dims,
            indexing.LazilyIndexedArray(
                _Values(folder, version, str(name), array.variable)
            ),
            array.attrs,
            array.encoding,
        )
        for name, array in dataset.data_vars.items()
        if array.ndim > 1 and array.dtype.kind in "fiu"
    }
    return dataset.assign(fields)


class _Values(BackendArray):
    """The values of one array, as xarray's lazy indexing asks for them.

    Attributes:
      shape, dtype: of the values.
    """

    def __init__(
        self, folder: Folder, version: int, name: str, plain: xarray.Variable
    ) -> None:
        """`plain` reads the same values through xarray."""
        self.shape = plain.shape
        self.dtype = np.dtype(np.float32)
        self._folder, self._version, self._name = folder, version, name
        self._plain = plain
        encoding = plain.encoding
        self._scale = float(encoding.get("scale_factor", 1))
        self._offset = float(encoding.get("add_offset", 0))
        stated = (encoding.get(key) for key in ("_FillValue", "missing_value"))
        fills = [fill for fill in stated if fill is not None]
        self._fills = [fill for fill in np.unique(fills) if not np.isnan(fill)]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple) -> np.ndarray:
        if self._array is None:
            return self._plain[key].values.astype(np.float32, copy=False)
        view = self._array.oindex[key].translate_to[0]
        if (self._scale, self._offset) != (1, 0):
            return self._unpack(view.read().result())
        # Into memory of NumPy: fresh memory of TensorStore's is slower to get.
        values = np.empty(view.shape, np.float32)
        ts.array(values).write(ts.cast(view, ts.float32)).result()
        for fill in self._fills:
            values[values == np.float32(fill)] = np.nan
        return values

    def _unpack(self, stored: np.ndarray) -> np.ndarray:
        """The CF conventions' packed data, computed in float64 a plane at a time."""
        values = np.empty(stored.shape, np.float32)
        for plane in np.ndindex(stored.shape[:-2]):
            values[plane] = stored[plane] * self._scale + self._offset
            for fill in self._fills:
                values[plane][stored[plane] == fill] = np.nan
        return values

    @functools.cached_property
    def _array(self) -> ts.TensorStore | None:
        """None if TensorStore cannot read it."""
        name = urllib.parse.quote(self._name)
        spec: dict[str, Any] = {
            "driver": "zarr" if self._version == 2 else "zarr3",
            "kvstore": f"{self._folder.url}{name}/",
        }
        try:
            if "_Unsigned" in self._plain.encoding:
                raise ValueError("it is marked as _Unsigned")
            if self._version == 2:
                metadata = self._folder.read_json(f"{self._name}/.zarray")
                if metadata and metadata["fill_value"] is None:
                    # Chunks that do not exist would read as 0, which may look sound.
                    if np.dtype(metadata["dtype"]).kind == "f":
                        spec["metadata"] = metadata | {"fill_value": "NaN"}
            # What is stated is not compared with what is there.
            known = "metadata" in spec
            return ts.open(spec, read=True, open=True, assume_metadata=known).result()
        except ValueError as error:
            reason = one_line(error).split(" [tensorstore_spec")[0]
            _note(
                f"{self._name} of {self._folder} is read through xarray, which is "
                f"slower: TensorStore cannot read it ({reason})"
            )
            return None


@functools.cache
def _note(message: str) -> None:
    """Prints a message, but once only."""
    print(f"note: {message}", file=sys.stderr)


class _FolderStore(Store):
    """What zarr-python needs of a folder to read from it."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, folder: Folder) -> None:
        super().__init__(read_only=True)
        self._folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FolderStore) and str(self) == str(other)

    def __repr__(self) -> str:
        return self._folder.address

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        result = await self._folder.kvstore.read(key, byte_range=_as_slice(byte_range))
        if result.state != "value":
            return None
        return prototype.buffer.from_bytes(result.value)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        reads = (self.get(key, prototype, part) for key, part in key_ranges)
        return await asyncio.gather(*reads)

    async def exists(self, key: str) -> bool:
        result = await self._folder.kvstore.read(key, byte_range=slice(0, 0))
        return result.state == "value"

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        try:
            keys = await (self._folder.kvstore / prefix).list()
        except NotImplementedError as error:
            raise ValueError(
                "it has no consolidated metadata, without which such an address cannot "
                "be opened"
            ) from error
        for key in keys:
            yield prefix + key.decode()

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        if self._folder.local is not None:
            # TensorStore would list every chunk.
            folder = self._folder.local / prefix
            names = [entry.name for entry in folder.iterdir()]
        else:
            keys = [key async for key in self.list_prefix(prefix)]
            names = sorted({key.removeprefix(prefix).split("/")[0] for key in keys})
        for name in names:
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()


def _as_slice(part: ByteRequest | None) -> slice | None:
    match part:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(-suffix, None)
    return None
