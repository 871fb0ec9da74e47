"""What must be equal on all processes of a run, compared before anything is computed.

Processes that differ would wait for each other for ever, deep in some collective.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from typing import Any

import jax
from jax.sharding import Mesh

from train import processes

PACKAGES = (
    "podgcm",
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorstore",
    "numpy",
)
_ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64")


def versions() -> dict[str, str]:
    """Of Python and the packages that compute; `-` if one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "-"
    return found


def digest(value: Any) -> str:
    """Of JSON, or of a text."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def mesh_map(mesh: Mesh) -> list[tuple[int, int]]:
    """Process and number of each device, in the order of the mesh."""
    return [(d.process_index, d.id) for d in mesh.devices.flat]


def check(config: dict[str, Any], fingerprint: str, mesh: Mesh) -> None:
    """Compares this process with the others.

    Args:
      config: of the run, as JSON.
      fingerprint: of the data.
      mesh: of the run.

    Raises:
      UserError: if something differs, naming it and a process.
    """
    processes.check_equal("versions", versions())
    environment = {name: os.environ.get(name, "") for name in _ENVIRONMENT}
    processes.check_equal("environments", environment)
    processes.check_equal("configurations", digest(config))
    processes.check_equal("data", fingerprint)
    processes.check_equal("numbers of devices", jax.local_device_count())
    processes.check_equal("meshes", digest(mesh_map(mesh)))
