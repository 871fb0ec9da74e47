"""`python -m launch.object_store`: the store as a process of its own."""

import argparse
import sys
import threading
from collections.abc import Sequence

from launch.object_store import ObjectStore
from pipeline.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted; prints the address first."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.object_store",
        description="A stand-in for Google Cloud Storage.",
    )
    parser.add_argument("--folder", help="serve its files as objects of every bucket")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds per request (default 0)"
    )
    parser.add_argument(
        "--failure_rate",
        type=float,
        default=0.0,
        help="share of requests that get a 503 (default 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of failures (default 0)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    try:
        store = ObjectStore(**vars(parser.parse_args(argv)))
    except UserError as error:
        print(f"object_store: {error}", file=sys.stderr)
        return 1
    with store:
        print(store.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
