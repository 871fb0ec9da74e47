"""Running other programs (gcloud, kubectl), or only printing what would be run."""

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence

from pipeline.errors import UserError
from train.exit_codes import Failed

_INSTALL = {
    "gcloud": "install the Google Cloud CLI",
    "kubectl": "gcloud components install kubectl gke-gcloud-auth-plugin",
    "docker": "install Docker, or build with --builder=cloud",
    "podgcm": "activate the environment that it is installed in",
}
_LONGEST_PAUSE = 300.0  # s
# What no further try changes.
_REFUSALS = (
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "INVALID_ARGUMENT",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "unrecognized arguments",
    "another command runs",
)


class CloudError(Failed):
    """The cloud did not do what it was asked for. Its message is one clear line."""


class Shell:
    """Runs commands one after the other.

    Args:
      dry_run: print every command as it would be typed, and run none.
      pause: seconds before the second try of a command that failed; doubled after
        each, up to five minutes.
    """

    def __init__(self, dry_run: bool, pause: float = 10.0):
        self.dry_run = dry_run
        self._pause = pause

    def note(self, text: str) -> None:
        """Tells what is going on, or, in a dry run, what a command is for."""
        print(f"# {text}" if self.dry_run else text, flush=True)

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        tries: int = 1,
        complaint: Callable[[str], str] = lambda output: "",
    ) -> str:
        """What a command prints; nothing in a dry run.

        Args:
          command: the program and its arguments.
          stdin: what it reads.
          tries: how often to run it if it fails.
          complaint: why what it prints is a failure although its exit code is none;
            nothing if it is not.

        Raises:
          CloudError: if it fails to the last.
          UserError: if there is no such program.
        """
        if self.dry_run:
            _print(command, stdin)
            return ""
        for attempt in range(tries):
            result = _call(command, input=stdin, capture_output=True, text=True)
            if result.returncode:
                reason = _reason(command, result)
            else:
                reason = complaint(result.stdout)
            if not reason:
                return result.stdout
            if attempt + 1 == tries or any(word in reason for word in _REFUSALS):
                raise CloudError(reason)
            seconds = min(self._pause * 2**attempt, _LONGEST_PAUSE)
            print(f"{reason}; trying again in {seconds:g} s", flush=True)
            time.sleep(seconds)
        raise ValueError(f"tries={tries} must be at least 1")

    def stream(self, command: Sequence[str]) -> int:
        """Runs a command that speaks to the terminal itself; its exit code.

        Raises:
          UserError: if there is no such program.
        """
        if self.dry_run:
            _print(command)
            return 0
        return _call(command).returncode


def _call(command: Sequence[str], **options) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, **options)
    except FileNotFoundError:
        program = command[0]
        hint = _INSTALL.get(program, f"install {program}")
        raise UserError(
            f"{program} is not installed: {hint}, or see with --dry_run what would run"
        ) from None


def _print(command: Sequence[str], stdin: str | None = None) -> None:
    line = shlex.join(command)
    print(line if stdin is None else f"{line} <<'END'\n{stdin.rstrip()}\nEND")


def _reason(command: Sequence[str], result: subprocess.CompletedProcess) -> str:
    """One line of why a command failed: its first error, or the last that it says."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    errors = [line for line in lines if line.startswith(("ERROR", "error", "Error"))]
    line = [*errors[:1], *lines[-1:], f"exit code {result.returncode}"][0]
    return f"{command[0]}: {line.strip()}"
