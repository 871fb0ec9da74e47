"""What is wrong with data, told by workers of any runner.

Runners tell of errors in words of their own, after trying again. So a worker notes what
a user can mend, goes on, and the pipeline's end tells of it.
"""

from collections.abc import Callable

from pipeline.errors import Unavailable, UserError
from pipeline.files import Folder

_FAILURES = "_failures"


def noted(folder: Folder, name: str, function: Callable[[], None]) -> None:
    """Calls a function; notes its `UserError` or `Unavailable` in a file."""
    try:
        function()
    except (UserError, Unavailable) as error:
        folder.write_json(f"{_FAILURES}/{name}.json", {"error": str(error)})


def forget(folder: Folder) -> None:
    """Deletes what earlier runs have noted."""
    folder.delete_folder(_FAILURES)


def tell(folder: Folder) -> None:
    """Raises UserError if something was noted."""
    names = folder.names(_FAILURES)
    if names:
        first = (folder.read_json(names[0]) or {}).get("error", "")
        others = f" (and {len(names) - 1} more in {folder}/{_FAILURES})"
        raise UserError(first + (others if len(names) > 1 else ""))
