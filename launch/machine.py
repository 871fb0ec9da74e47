"""Checks of a machine, for `podgcm doctor`; none needs JAX."""

import contextlib
import dataclasses
import glob
import importlib.metadata
import os
import pathlib
import platform
import resource
import shutil
import sys
import tempfile
import uuid
from typing import TYPE_CHECKING

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.errors import UserError

if TYPE_CHECKING:
    from etils import epath

OK, WARN, FAIL = "ok", "WARN", "FAIL"
_GIB = 2**30
_LEAST_MEMORY, _LEAST_SHARED, _LEAST_DISK = 4 * _GIB, _GIB, 10 * _GIB
_LEAST_FILES = 4096
_LOCKFILE = "/tmp/libtpu_lockfile"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
      status: OK, WARN or FAIL.
      found: in words.
      todo: what to do about it, if that is not said already.
    """

    status: str
    found: str
    todo: str = ""


def tpu_chips(devices: str = "/dev") -> list[str]:
    """The TPU chips of this host, as files."""
    found = glob.glob(f"{devices}/accel*") + glob.glob(f"{devices}/vfio/[0-9]*")
    return sorted(found)


def check_accelerators(
    devices: str = "/dev", processes: str = "/proc", lockfile: str = _LOCKFILE
) -> Finding:
    """No other process holds the TPU chips of this host, if there are any."""
    chips = tpu_chips(devices)
    if not chips:
        return Finding(OK, "no TPU chips on this host")
    for process in sorted(glob.glob(f"{processes}/[0-9]*")):
        pid = os.path.basename(process)
        for link in glob.glob(f"{process}/fd/*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                target = os.readlink(link)
                if pid != str(os.getpid()) and target in chips:
                    what = f"process {pid} holds {target}"
                    return Finding(FAIL, what, f"end it: sudo kill {pid}")
    if os.path.exists(lockfile):
        status = WARN if os.access(lockfile, os.W_OK) else FAIL
        return Finding(
            status,
            f"{lockfile} is left over, and no process of this user holds a chip",
            f"if nothing else uses the TPU: sudo rm {lockfile}",
        )
    return Finding(OK, f"{len(chips)} TPU chips, held by nobody")


def check_python() -> Finding:
    needed = importlib.metadata.metadata("podgcm")["Requires-Python"]
    version = platform.python_version()
    if not SpecifierSet(needed).contains(version, prereleases=True):
        return Finding(FAIL, f"{version}, needed is {needed}", "install another Python")
    return Finding(OK, f"{version} ({sys.executable})")


def unmet(package: str, extra: str = "") -> list[str]:
    """The requirements of an installed package that are not met, in words."""
    faults = []
    for line in importlib.metadata.requires(package) or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{needed.name} is not installed")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            faults.append(f"{needed.name} is {version}, not {needed.specifier}")
    return faults


def check_packages() -> Finding:
    """Versions against the ranges of pyproject.toml; jax and jaxlib belong together."""
    todo = "pip install --constraint constraints.txt --editable ."
    try:
        faults = unmet("podgcm") + unmet("jax", "tpu" if tpu_chips() else "")
    except importlib.metadata.PackageNotFoundError as error:
        return Finding(FAIL, f"{error.name} is not installed", todo)
    if tpu_chips():
        todo += "[tpu]"
    jax, jaxlib = (importlib.metadata.version(x) for x in ("jax", "jaxlib"))
    if jax.split(".")[:2] != jaxlib.split(".")[:2]:
        faults.append(f"jax {jax} and jaxlib {jaxlib} do not belong together")
    if faults:
        return Finding(FAIL, "; ".join(dict.fromkeys(faults)), todo)
    return Finding(OK, f"jax {jax}, jaxlib {jaxlib}, all as pyproject.toml says")


def check_memory() -> Finding:
    """Of the machine, or what a container may use of it."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit
            limit = int(pathlib.Path("/sys/fs/cgroup", file).read_text())
            total, free = min(total, limit), min(free, limit)
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB available"
    if free < _LEAST_MEMORY:
        return Finding(WARN, found, "end other processes, or take a larger machine")
    return Finding(OK, found)


def check_shared_memory(folder: str = "/dev/shm") -> Finding:
    if not os.path.isdir(folder):
        return Finding(OK, f"there is no {folder}")
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free < _LEAST_SHARED:
        todo = "remove what is left in it, or enlarge it (of a container: --shm-size)"
        return Finding(WARN, found, todo)
    return Finding(OK, found)


def check_open_files() -> Finding:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"at most {limit}"
    if 0 <= limit < _LEAST_FILES:  # without a limit it is negative
        most = min(hard, 65536) if hard >= 0 else 65536
        return Finding(WARN, found, f"ulimit -n {max(most, limit)}")
    return Finding(OK, found)


def _disk(folder: str, todo: str) -> Finding:
    free = shutil.disk_usage(folder).free
    status = OK if free >= _LEAST_DISK else WARN if free >= _LEAST_DISK / 10 else FAIL
    return Finding(
        status, f"{folder}: {free / _GIB:.1f} GiB free", "" if status == OK else todo
    )


def check_temporary_folder() -> Finding:
    """There is one, and it has room."""
    folder = tempfile.gettempdir()
    return _disk(folder, "make room in it, or set TMPDIR")


def probe_path(workdir: str) -> "epath.Path":
    """A new file in the folder, or in the nearest one above it that exists."""
    from train.folder import PROBE, open_path

    path = open_path(workdir)
    if "://" not in workdir:
        while not path.exists():
            path = path.parent
    return path / f"{PROBE}{uuid.uuid4().hex}"


def check_workdir(workdir: str) -> Finding:
    """It is empty or a run's, can be written to, and has room; nothing is left in it.

    Raises:
      UserError: if not.
    """
    from train.folder import is_strange, open_path

    path, probe = open_path(workdir), probe_path(workdir)
    try:
        probe.write_text("podgcm")
        if probe.read_text() != "podgcm":
            raise OSError("what was written was not read")
        probe.unlink()
        holds_run = (path / "config.json").exists()
        strange = not holds_run and is_strange(path)
    except Exception as error:  # clients of buckets raise their own
        raise UserError(
            f"--workdir={workdir} cannot be written to ({error}): make it writable for "
            "this user (of a bucket: give this host the right to), or give another"
        ) from error
    if strange:
        raise UserError(f"{path} is not empty and no run: give another --workdir")
    what = "a run to go on with" if holds_run else "can be written to"
    if "://" in workdir:
        return Finding(OK, f"{workdir}: {what}")
    finding = _disk(str(probe.parent), "make room, or give another --workdir")
    return dataclasses.replace(finding, found=f"{workdir}: {what}; {finding.found}")
