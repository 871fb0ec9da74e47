"""The TPUs that programs are compiled for, and how fast they are."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, which is one JAX device here.

    Attributes:
      peak: bfloat16 operations a second.
      memory_bandwidth: of HBM, bytes a second.
      link_bandwidth: of one link in one direction, bytes a second.
      memory: of HBM that the compiler gives a program, bytes.
      network_bandwidth: of the data-centre network between slices, in one direction,
        bytes a second: a host's, divided by its chips.
      vector_peak: operations a second on single numbers.
    """

    peak: float
    memory_bandwidth: float
    link_bandwidth: float
    memory: float
    network_bandwidth: float
    vector_peak: float


_GIB = 2.0**30
# Speeds from the JAX scaling book (jax-ml.github.io/scaling-book), sizes from the
# compiler's own messages (v4, which was not asked: of its data sheet). Networks: hosts
# of 4 chips, of v5e and v6e 8, with 200 Gbit/s, of v6e 800. Vectors: four operations a
# cycle on each of a core's 1024 lanes; cycles of v6e as of v5p, others from their peak.
CHIPS = {
    "v4": Chip(2.75e14, 1.2e12, 4.5e10, 32 * _GIB, 25e9 / 4, 8.6e12),
    "v5e": Chip(1.97e14, 8.1e11, 4.5e10, 15.75 * _GIB, 25e9 / 8, 6.2e12),
    "v5p": Chip(4.59e14, 2.77e12, 9e10, 95.73 * _GIB, 25e9 / 4, 1.43e13),
    "v6e": Chip(9.2e14, 1.6e12, 9e10, 31.24 * _GIB, 100e9 / 8, 7.2e12),
}
