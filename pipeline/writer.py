"""Writing a store: its plan, then shards with their markers, READY last.

Workers write shards in any order, at any time, and again after a failure: the same
shard always has the same bytes. What is done is told by markers alone.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.layout import encode_shard, shard_name, store_files
from pipeline.plan import PLAN_FILE, Plan

READY_FILE = "_build/READY"
STATISTICS_FILE = "stats/statistics.json"

Item = tuple[str, int]
"""(array, shard)."""


@dataclasses.dataclass(frozen=True)
class Marker:
    """What is noted of a shard after it is written.

    Attributes:
      config_hash: of the plan.
      first_time: of the shard, ISO 8601 in hours; None if it is static.
      steps: number of its times.
      object_bytes: size of its object.
      blake2b: digest of its object.
      residual: by how much regridding changed the area mean of a level at most, as a
        part of the mean absolute value, at the first time; None if that is not kept
        (where fields are filled, on sigma layers).
    """

    config_hash: str
    first_time: str | None
    steps: int
    object_bytes: int
    blake2b: str
    residual: float | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        array: str,
        shard: int,
        content: bytes,
        residual: float | None = None,
    ) -> "Marker":
        time = None
        if not plan.is_static(array):
            first, _ = plan.shard_times(shard)
            time = str(plan.times[first].astype("datetime64[h]"))
        steps = plan.shard_steps_of(array, shard)
        size = len(content)
        return cls(plan.config_hash, time, steps, size, digest(content), residual)

    def fault(self, plan: Plan, array: str, shard: int) -> str | None:
        """Why the shard is not that of a plan; None if it is."""
        other = Marker.of(plan, array, shard, b"")
        if self.config_hash != other.config_hash or self.first_time != other.first_time:
            return "belongs to another plan"
        if self.steps < other.steps:
            return f"has {self.steps} of {other.steps} times"
        return None


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def marker_name(array: str, shard: int) -> str:
    return f"_build/done/{array}/{shard}.json"


def begin(folder: Folder, plan: Plan) -> None:
    """Writes the plan of a new store, or of one that is to have more times."""
    content = plan.to_json()
    if folder.read_json(PLAN_FILE) != content:
        folder.write_json(PLAN_FILE, content)


def write_shard(
    folder: Folder,
    plan: Plan,
    array: str,
    shard: int,
    data: np.ndarray,
    residual: float | None = None,
) -> Marker:
    """Writes a whole shard, then its marker.

    Args:
      data: float32, [time, level, latitude, longitude] or as the array has it.
      residual: for the marker.
    """
    content = encode_shard(plan, array, data)
    folder.write(shard_name(plan, array, shard), content)
    marker = Marker.of(plan, array, shard, content, residual)
    folder.write_json(marker_name(array, shard), dataclasses.asdict(marker))
    return marker


def read_markers(folder: Folder, items: Iterable[Item]) -> dict[Item, Marker | None]:
    """Markers of shards; None of those that have none, or a damaged one."""
    names = {item: marker_name(*item) for item in items}
    contents = folder.read_many(names.values())
    return {item: _marker(folder, name, contents) for item, name in names.items()}


def _marker(
    folder: Folder, name: str, contents: dict[str, bytes | None]
) -> Marker | None:
    content = contents[name]
    if content is None:
        return None
    try:
        return Marker(**folder.parse_json(name, content))
    except (UserError, TypeError):
        return None


def find_faults(
    folder: Folder, plan: Plan, items: Iterable[Item] | None = None
) -> dict[Item, str]:
    """What is wrong with shards, judged without reading them.

    Args:
      items: to look at; all by default.
    """
    items = plan.items() if items is None else list(items)
    markers = read_markers(folder, items)
    sizes: dict[str, int | None] = {}
    for array in sorted({array for array, _ in items}):
        sizes |= folder.sizes(f"{array}/c")
    faults = {}
    for item in items:
        fault = _fault(plan, *item, markers[item], sizes)
        if fault is not None:
            faults[item] = f"shard {item[1]} of {item[0]} {fault}"
    return faults


def _fault(
    plan: Plan,
    array: str,
    shard: int,
    marker: Marker | None,
    sizes: dict[str, int | None],
) -> str | None:
    if marker is None:
        return "is not done"
    fault = marker.fault(plan, array, shard)
    if fault is not None:
        return fault
    name = shard_name(plan, array, shard)
    if name not in sizes:
        return f"is missing, {marker.object_bytes} bytes were written"
    if sizes[name] not in (None, marker.object_bytes):
        return f"has {sizes[name]} bytes, {marker.object_bytes} bytes were written"
    return None


def find_damage(
    folder: Folder, plan: Plan, items: Iterable[Item]
) -> Iterator[tuple[Item, str | None]]:
    """Reads the objects of shards that have markers, and compares their digests.

    Yields:
      Each item, in any order, and what is wrong with it; None if nothing is.
    """
    markers = read_markers(folder, items)

    def look(item: Item) -> tuple[Item, str | None]:
        marker = markers[item]
        content = folder.read(shard_name(plan, *item))
        which = f"shard {item[1]} of {item[0]}"
        if marker is None:
            return item, f"{which} is not done"
        if content is None:
            return item, f"{which} is missing"
        if digest(content) != marker.blake2b:
            return item, f"{which} is damaged: its bytes are not those written"
        return item, None

    # An object in flight is up to 150 MB.
    with futures.ThreadPoolExecutor(4) as pool:
        for future in futures.as_completed([pool.submit(look, i) for i in markers]):
            yield future.result()


def finish(folder: Folder, plan: Plan, group_attributes: dict[str, Any]) -> None:
    """Declares a store finished, whose shards and statistics are all written.

    Raises:
      UserError: if they are not.
    """
    faults = find_faults(folder, plan)
    if not folder.exists(STATISTICS_FILE):
        faults["stats", 0] = f"{STATISTICS_FILE} is missing"
    if faults:
        raise UserError(f"{folder}: {next(iter(faults.values()))}")
    for name, content in store_files(plan, group_attributes).items():
        # Equal files keep their age, which tools that copy go by.
        if folder.read(name) != content:
            folder.write(name, content)
    folder.write_json(READY_FILE, ready_content(folder, plan))
    folder.sweep()


def is_finished(folder: Folder, plan: Plan, group_attributes: dict[str, Any]) -> bool:
    """Whether `finish` was through with this plan, and what it wrote is still there."""
    try:
        ready = folder.read_json(READY_FILE)
        if ready is None or Plan.from_json(ready, READY_FILE) != plan:
            return False
    except UserError:  # damaged
        return False
    files = store_files(plan, group_attributes)
    return folder.exists(STATISTICS_FILE) and folder.read_many(files) == files


def ready_content(folder: Folder, plan: Plan) -> dict[str, Any]:
    """The plan, and sizes and digests of all objects of a finished store."""
    objects: dict[str, list[tuple[int, str]]] = {}
    for (array, _), marker in read_markers(folder, plan.items()).items():
        assert marker is not None  # `finish` has looked
        objects.setdefault(array, []).append((marker.object_bytes, marker.blake2b))
    return plan.to_json() | {"objects": objects}
