"""Jablonowski and Williamson (2006) at T42, 24 levels, as `podgcm bench` runs it."""

import numpy as np
import pytest

from launch.benchmarks.baroclinic_wave import simulate
from model.sphere.grids import parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels

GRID = parse_grid("T42")
SIGMA = SigmaLevels.equidistant(24)

pytestmark = pytest.mark.slow


def run(**options):
    """Figures by day, and the last state."""
    days = {}
    for state, figures in simulate(GRID, SIGMA, **options):  # noqa: B007
        print(figures)
        days[figures["day"]] = figures
    return days, state


def test_steady_flow_stays_steady_for_five_days():
    days, _ = run(minutes=20, days=5, perturbation=0.0)
    for figures in days.values():
        assert abs(figures["lowest_hPa"] - 1000) < 0.1
        assert abs(figures["highest_hPa"] - 1000) < 0.1
        assert figures["wind_m_s"] < 0.2


def test_wave_deepens_as_in_the_literature_and_keeps_its_mass():
    days, state = run(minutes=20, days=10)
    assert days[7]["lowest_hPa"] == pytest.approx(986.1, abs=0.5)
    assert days[9]["lowest_hPa"] == pytest.approx(947.5, abs=0.5)
    for figures in days.values():
        assert abs(figures["mean_pressure_hPa"]) < 1e-3
        assert abs(figures["total_energy"]) < 1e-4
        assert abs(figures["angular_momentum"]) < 1e-4
    h = SphericalHarmonics.create(GRID)
    pressure = 1000 * np.exp(h.synthesis(state.log_surface_pressure))
    southern = pressure[: GRID.latitudes // 2]
    assert np.abs(southern - 1000).max() < 0.5  # the wave is in the north only


def test_three_bfloat16_passes_do_not_harm_the_wave():
    """Transforms rounded as on a TPU: the same storm, and the same mass."""
    exact, _ = run(minutes=40, days=9)
    rounded, _ = run(minutes=40, days=9, precision="bf16_3x_emulated")
    assert rounded[9] != exact[9]
    for day in exact:
        for name in ("lowest_hPa", "highest_hPa"):
            assert rounded[day][name] == pytest.approx(exact[day][name], abs=0.05)
        assert abs(rounded[day]["mean_pressure_hPa"]) < 1e-3
    assert rounded[9]["lowest_hPa"] == pytest.approx(947.5, abs=0.5)
