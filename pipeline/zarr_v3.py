"""Files of a Zarr v3 store as bytes, made in memory, to be written whole."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts


def array_files(
    metadata: Mapping[str, Any], values: np.ndarray | None = None
) -> dict[str, bytes]:
    """Files of an array by name; without values its `zarr.json` alone."""
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        "metadata": dict(metadata),
        "store_data_equal_to_fill_value": True,
    }
    # A context of its own is a memory of its own.
    array = ts.open(spec, create=True, context=ts.Context()).result()
    if values is not None:
        array.write(np.asarray(values, order="C")).result()
    memory = array.kvstore
    names = [name.decode() for name in memory.list().result()]
    return {name: memory.read(name).result().value for name in names}


def coordinate_files(
    name: str, values: np.ndarray, attributes: Mapping[str, str]
) -> dict[str, bytes]:
    """Files of a coordinate, by their names in the group."""
    metadata = {
        "shape": values.shape,
        "data_type": values.dtype.name,
        "dimension_names": [name],
        "attributes": dict(attributes),
    }
    files = array_files(metadata, values)
    return {f"{name}/{key}": content for key, content in files.items()}


def group_file(
    attributes: Mapping[str, Any], files: Mapping[str, bytes] | None = None
) -> bytes:
    """The `zarr.json` of a group, which tells of the arrays in `files` too.

    So readers need to ask for one file only (as zarr-python writes and reads it).
    """
    # TensorStore knows arrays only.
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if files is not None:
        group["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {
                key.removesuffix("/zarr.json"): json.loads(content)
                for key, content in sorted(files.items())
                if key.endswith("/zarr.json")
            },
        }
    return (json.dumps(group, indent=1, sort_keys=True) + "\n").encode()
