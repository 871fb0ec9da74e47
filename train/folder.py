"""The folder of a run, on a disk or in a bucket.

Everything but checkpoints is small, and written by process 0: what grows (metrics,
events of TensorBoard, profiles) is appended to where files can grow, on a disk. For a
run in a bucket that disk is a temporary folder here, whose changed files are copied
whole with every checkpoint.
"""

import dataclasses
import io
import pathlib
import tempfile

import numpy as np
from etils import epath

from pipeline.errors import UserError

CONFIG_DRAFT = "config.tmp"  # becomes config.json
PROBE = ".podgcm-doctor-"
_GROUND = "ground.npz"


class RunFolder:
    """A run's folder.

    Attributes:
      path: of the folder, for checkpoints and small files.
      local: where files that grow are written; the folder itself, if it is on a disk.
    """

    def __init__(self, workdir: str) -> None:
        self.path = open_path(workdir)
        self._remote = "://" in workdir
        if self._remote:
            self._temporary = tempfile.TemporaryDirectory(prefix="podgcm-")
            self.local = pathlib.Path(self._temporary.name)
        else:
            self.local = pathlib.Path(self.path)
        self._copied: dict[str, tuple[int, int]] = {}

    def fetch(self, name: str) -> None:
        """Copies a file that is to grow to the disk, if it is not there already."""
        if self._remote and (self.path / name).exists():
            (self.local / name).write_bytes((self.path / name).read_bytes())

    def copy(self) -> None:
        """Copies what has changed on the disk to the bucket."""
        if not self._remote:
            return
        for file in sorted(self.local.rglob("*")):
            if file.is_file() and file.suffix != ".tmp":  # they come and go
                self.copy_file(str(file.relative_to(self.local)))

    def copy_file(self, name: str) -> None:
        """Copies one file to the bucket, if it has changed."""
        if not self._remote:
            return
        status = (self.local / name).stat()
        version = (status.st_size, status.st_mtime_ns)
        if self._copied.get(name) != version:
            (self.path / name).write_bytes((self.local / name).read_bytes())
            self._copied[name] = version


def is_strange(folder: epath.Path) -> bool:
    """Whether a folder that holds no run holds something else.

    What a start that was killed, or `podgcm doctor` on another host, has there does not
    count.
    """
    if not folder.exists():
        return False
    names = [x.name for x in folder.iterdir()]
    return any(x != CONFIG_DRAFT and not x.startswith(PROBE) for x in names)


def open_path(workdir: str) -> epath.Path:
    """A path on a disk, absolute as Orbax wants it, or in a bucket (gs://...).

    Raises:
      UserError: if buckets of that kind cannot be reached.
    """
    if "://" not in workdir:
        return epath.Path(pathlib.Path(workdir).resolve())
    try:
        import fsspec
        import gcsfs  # noqa: F401, which the path needs
    except ImportError:
        raise UserError(
            f"{workdir} needs the package gcsfs: "
            "pip install --constraint constraints.txt '.[cloud]'"
        ) from None
    # Else a list is kept for ever, and what other processes write is never seen.
    for protocol in ("gs", "gcs"):
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    return epath.Path(workdir)


@dataclasses.dataclass(frozen=True)
class Ground:
    """What lies under the atmosphere, where a run brings its own.

    Attributes:
      geopotential_at_surface: m2 s-2, [latitude, longitude], from south to north.
      land_sea_mask: fraction of land, the same shape.
    """

    geopotential_at_surface: np.ndarray
    land_sea_mask: np.ndarray

    def save(self, folder: pathlib.Path) -> None:
        np.savez(folder / _GROUND, **dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: epath.Path) -> "Ground | None":
        """That of a run's folder; None if the data's own is to be used."""
        file = folder / _GROUND
        if not file.exists():
            return None
        with np.load(io.BytesIO(file.read_bytes())) as fields:
            return cls(**fields)
