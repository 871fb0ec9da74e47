"""What one process learns, all must act upon in the same step.

A process is told to stop by SIGTERM, process 0 finds that it is time for a checkpoint,
someone asks for a profile by SIGUSR2. Each casts its votes with every step; a tiny
program, queued behind the step, takes their maximum over all processes. The result is
read one step later, when it is there anyway: nothing waits, and all processes see the
same votes at the same step.
"""

import dataclasses
import functools
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.partitioning import AXES
from train.mesh import replicated


@dataclasses.dataclass
class Motions:
    """What is voted on.

    Attributes:
      stop: save, and end as preempted.
      save: save a checkpoint.
      profile: record a profile of the next steps.
    """

    stop: bool = False
    save: bool = False
    profile: bool = False


@contextmanager
def signals() -> Iterator[Motions]:
    """In the block SIGTERM and SIGUSR2 set `stop` and `profile` and kill nobody."""
    motions = Motions()
    before = {
        number: signal.signal(number, lambda *_, m=motion: setattr(motions, m, True))
        for number, motion in {
            signal.SIGTERM: "stop",
            signal.SIGUSR2: "profile",
        }.items()
    }
    try:
        yield motions
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Votes:
    """Carries motions from the processes that made them to all.

    Attributes:
      own: this process's motions. `stop` stays, others are cast once.
    """

    def __init__(self, mesh: Mesh, own: Motions) -> None:
        self.own = own
        self._mesh = mesh
        self._cast: jax.Array | None = None

    def cast(self) -> Motions:
        """Casts this process's votes; returns what was carried by those cast before.

        All processes must call it equally often.
        """
        carried = Motions()
        if self._cast is not None:
            carried = Motions(*(bool(x) for x in np.asarray(self._cast)))
        own = dataclasses.replace(self.own)
        self.own.save &= not own.save  # a signal that comes now is for the next cast
        self.own.profile &= not own.profile
        votes = np.array([dataclasses.astuple(own)], np.int32)
        sharding = NamedSharding(self._mesh, P(AXES))
        local = np.repeat(votes, len(sharding.addressable_devices), axis=0)
        ballots = jax.make_array_from_process_local_data(
            sharding, local, (self._mesh.size, votes.shape[1])
        )
        self._cast = _count(replicated(self._mesh), ballots)
        return carried

    def repeat(self, carried: Motions) -> None:
        """Casts again, next time, what was carried where nobody acts upon it."""
        self.own.save |= carried.save
        self.own.profile |= carried.profile


@functools.partial(jax.jit, static_argnums=0)
def _count(sharding: NamedSharding, ballots: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.max(ballots, axis=0), sharding)
