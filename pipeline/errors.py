"""Errors told in one line: those that a user can mend, and those that pass."""

import errno
import re


class UserError(ValueError):
    """A mistake of the user, or of the user's data.

    Its message is one clear line that says what is wrong and what to do. Commands
    print that line without a traceback and exit with a code other than 0.
    """


class Unavailable(RuntimeError):
    """Storage does not answer at present; what was asked may go well later."""


def is_outage(error: BaseException) -> bool:
    """Whether storage has said "not now", and not that something is not as it should.

    TensorStore raises ValueError for everything; the status is in its message.
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE):
        return True
    return bool(_OUTAGE.search(str(error)))


_OUTAGE = re.compile(
    r"\b(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|UNAUTHENTICATED|RESOURCE_EXHAUSTED)\b"
    r"|Input/output error|Stale file handle"
)
