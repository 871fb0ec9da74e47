"""Profiles of some steps, for xprof: by configuration, or on demand by SIGUSR2."""

import jax

from train.folder import RunFolder
from train.processes import say


class Profiler:
    """Records `profile/` in a run's folder, on every process its own part."""

    def __init__(self, folder: RunFolder, first: int, length: int) -> None:
        """
        Args:
          folder: of the run.
          first: step with which a profile begins; 0: only on demand.
          length: number of steps in a profile.
        """
        self._folder, self._first, self._length = folder, first, length
        self._last: int | None = None

    def before(self, step: int, demanded: bool) -> None:
        """Begins a profile with this step, if it is time."""
        if self._last is None and (demanded or step == self._first):
            self._last = step + self._length - 1
            jax.profiler.start_trace(str(self._folder.local / "profile"))
            say(f"profile of steps {step} to {self._last} begins")

    def ends(self, step: int) -> bool:
        """Whether a profile ends with this step, which must be waited for."""
        return self._last is not None and step >= self._last

    def after(self, step: int) -> None:
        """Ends the profile, if it is time."""
        if self.ends(step):
            self.__exit__()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the profile that is going on, if there is one."""
        if self._last is not None:
            self._last = None
            jax.profiler.stop_trace()
            self._folder.copy()
            say(f"profile written to {self._folder.path / 'profile'}")
