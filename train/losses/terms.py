"""What a loss is made of: terms, how errors are scaled, and how leads count.

A term is a score (`train.losses.scores`) of errors in a space (`train.losses.views`)
with a weight. After Kochkov et al. (2024), Supplement G; the two-member score after its
section on the stochastic model.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Term(NamedTuple):
    """One term of a loss.

    Attributes:
      score: what is made of errors: `mse`, `spectrum`, `bias`, `crps` (of spectral
        coefficients) or `crps_grid` (of values at grid points).
      space: `data`, decoded fields on pressure levels, or `model`, states.
    """

    score: str
    space: str


TERMS = {
    "mse_data": Term("mse", "data"),
    "mse_model": Term("mse", "model"),
    "spectrum_data": Term("spectrum", "data"),
    "spectrum_model": Term("spectrum", "model"),
    "bias_data": Term("bias", "data"),
    "bias_model": Term("bias", "model"),
    "crps_grid_data": Term("crps_grid", "data"),
    "crps_data": Term("crps", "data"),
    "crps_model": Term("crps", "model"),
}
OF_MEMBERS = ("crps", "crps_grid")  # scores that compare two members of a sample


@dataclasses.dataclass(frozen=True)
class Loss:
    """Which terms count, and how errors are measured.

    Attributes:
      weights: of terms by name (`TERMS`); those that are not here are not computed.
      amplitudes: of a variable's errors, by ERA5 name; default 1.
      log_surface_pressure: the same for ln(ps).
      least_level: hPa; pressure levels above do not count.
      lead_hours: squared errors after t hours count 1 / (1 + t / lead_hours).
      spectrum_lead_hours: squared errors of spectra count 1 / (1 + (t / this)^4).
      spectrum_cutoff, crps_cutoff: largest total wavenumber that spectra, and two
        members' coefficients, are compared at, as a part of the grid's truncation.
      low_pass: (t in hours, wavenumber): errors of coefficients after t hours count
        1 / e from this wavenumber on, and hardly at all beyond; see `low_pass`.

    Raises:
      ValueError: if one of them makes no sense.
    """

    weights: tuple[tuple[str, float], ...]
    amplitudes: tuple[tuple[str, float], ...]
    log_surface_pressure: float
    least_level: float
    lead_hours: float
    spectrum_lead_hours: float
    spectrum_cutoff: float
    crps_cutoff: float
    low_pass: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"all of its weights ({', '.join(TERMS)}) are 0")
        for name, weight in self.weights:
            if weight < 0:
                raise ValueError(f"{name}={weight} must not be negative")
        for name in ("lead_hours", "spectrum_lead_hours"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0")
        for name in ("spectrum_cutoff", "crps_cutoff"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be within (0, 1]")
        hours = [hour for hour, _ in self.low_pass]
        if hours != sorted(set(hours)) or any(n <= 0 for _, n in self.low_pass):
            raise ValueError(
                f"low_pass={self.low_pass} must be (hours, wavenumber) with ascending "
                "hours and wavenumbers above 0"
            )

    @property
    def needs_members(self) -> bool:
        """Whether a term compares two members of a sample."""
        return any(TERMS[name].score in OF_MEMBERS for name, _ in self.weights)


def lead_weights(loss: Loss, score: str, hours: Sequence[float]) -> np.ndarray:
    """How a score of errors counts at each lead; their mean is 1, float64 [lead].

    So the loss of a rollout is a weighted mean over its frames, the first included,
    whatever their number. What is linear in errors counts by the root of what squares
    count: scores of members, and biases, which are squared after the mean over leads.
    """
    t = np.asarray(hours, np.float64)
    if score == "spectrum":
        squares = 1 / (1 + (t / loss.spectrum_lead_hours) ** 4)
    else:
        squares = 1 / (1 + t / loss.lead_hours)
    linear = score == "bias" or score in OF_MEMBERS
    weights = np.sqrt(squares) if linear else squares
    return weights / weights.mean()


ORDER = 12  # of the paper's filter by lead time


def low_pass(loss: Loss, wavenumbers: np.ndarray, hours: Sequence[float]) -> np.ndarray:
    """What errors of coefficients are multiplied by, float64 [lead, l].

    exp(-(l / n)^(2 * 12)) at total wavenumbers l, [l]. ln(n) is interpolated in time
    between the leads of `loss.low_pass`, and is that of the last one after it; before
    the first nothing is filtered.
    """
    factors = np.ones((len(hours), len(wavenumbers)))
    if loss.low_pass:
        known, at_known = np.transpose(loss.low_pass)
        cutoffs = np.exp(np.interp(hours, known, np.log(at_known)))
        filtered = np.asarray(hours) >= known[0]
        ratios = wavenumbers / cutoffs[filtered, None]
        factors[filtered] = np.exp(-(ratios ** (2 * ORDER)))
    return factors
