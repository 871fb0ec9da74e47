"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10


def progress(
    items: Iterable[T],
    label: str,
    total: int | None = None,
    status: Callable[[], str] = str,
) -> Iterator[T]:
    """Yields `items`, and shows on stderr how far it has come and what is left.

    Args:
      items: what is worked through.
      label: of the bar or line.
      total: number of items; default their length.
      status: called now and then for a few words on how it goes.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        with tqdm.tqdm(items, desc=label, total=total, file=sys.stderr) as bar:
            for item in bar:
                yield item
                bar.set_postfix_str(status(), refresh=False)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES or done == total:
            last = time.monotonic()
            line = f"{label}: {done}, {last - start:.0f} s"
            if total:
                left = (last - start) / done * (total - done)
                line = f"{label}: {done} of {total}, {last - start:.0f} s"
                line += f", about {left:.0f} s left" if done < total else ""
            print(line, file=sys.stderr, flush=True)
