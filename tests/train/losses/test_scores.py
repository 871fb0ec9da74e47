"""Scores against their definitions, closed forms and analytic solutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from model.sphere.grids import parse_grid
from model.sphere.harmonics import SphericalHarmonics
from train.losses import scores
from train.losses.terms import TERMS, Loss, lead_weights, low_pass

GRID = parse_grid("T21")
PLANES = 3


@pytest.fixture(scope="module")
def harmonics():
    return SphericalHarmonics.create(GRID, jnp.float64)


@pytest.fixture(scope="module")
def modal(harmonics):
    """Random coefficients of states, [2, plane, 2, m, l]."""
    values = np.random.default_rng(0).normal(size=(2, PLANES, *harmonics.modal_shape))
    return jnp.asarray(values * harmonics.mask)


def complex_coefficients(x):
    """[plane, m, l] complex, so that |c|^2 is the power of a wave."""
    return np.asarray(x[:, 0] + 1j * x[:, 1])


SCORES = {
    "mse": lambda target, error: scores.mean_square(error),
    "spectrum": lambda target, error: scores.spectrum(target, error, 15),
    "bias": lambda target, error: scores.mean_square_bias(
        scores.amplitude_bias(target, error)
    ),
    "crps": lambda target, error: scores.mean_over_waves(
        scores.crps(error, error[::-1]), 15
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_perfect_forecast_scores_0_with_a_finite_gradient(name, modal):
    for target in (modal[0], jnp.zeros_like(modal[0])):
        score = SCORES[name](target, jnp.zeros_like(target))
        np.testing.assert_array_equal(score, 0)
        gradients = jax.grad(lambda t, e: SCORES[name](t, e).sum(), argnums=(0, 1))(
            target, jnp.zeros_like(target)
        )
        assert all(np.isfinite(g).all() for g in gradients)


def test_mean_square_is_that_of_the_field(harmonics, modal):
    error = modal[1]
    field = harmonics.synthesis(error)
    weights = np.asarray(GRID.latitude_weights)[:, None] / (2 * GRID.longitudes)
    expected = np.sum(np.asarray(field) ** 2 * weights, axis=(-2, -1))
    np.testing.assert_allclose(scores.mean_square(error), expected, 1e-12)
    points = harmonics.to_nodal(error)
    on_grid = scores.mean_over_points(points**2, harmonics.own_weights)
    np.testing.assert_allclose(on_grid, expected, 1e-12)


def test_spectrum_by_its_definition(modal):
    target, error = modal
    predicted, observed = (complex_coefficients(x) for x in (target + error, target))
    expected = np.zeros(PLANES)
    for l in range(16):  # noqa: E741
        both = [
            np.sqrt(np.sum(np.abs(c[:, :, l]) ** 2, 1)) for c in (predicted, observed)
        ]
        expected += (both[0] - both[1]) ** 2 / (4 * np.pi)
    np.testing.assert_allclose(scores.spectrum(target, error, 15), expected, 1e-12)


def test_spectrum_does_not_see_where_a_wave_is(modal):
    """A field turned about the axis has the same spectrum, and is wrong elsewhere."""
    target = modal[0]
    m = np.arange(target.shape[-2])[:, None]
    turned = complex_coefficients(target) * np.exp(0.3j * m)
    turned = jnp.stack([turned.real, turned.imag], axis=1)
    error = turned - target
    for score in (SCORES["spectrum"], SCORES["bias"]):
        np.testing.assert_allclose(score(target, error), 0, atol=1e-24)
    assert (scores.mean_square(error) > 0.1).all()


def test_bias_by_its_definition(modal):
    target, error = modal
    predicted, observed = (complex_coefficients(x) for x in (target + error, target))
    expected = np.sum((abs(predicted) - abs(observed)) ** 2, (1, 2)) / (4 * np.pi)
    np.testing.assert_allclose(SCORES["bias"](target, error), expected, 1e-12)


def test_crps_of_gaussian_members_is_the_closed_form():
    """Gneiting and Raftery (2007), eq. 21: the score of a normal distribution."""
    count, mean, spread, observed = 400_000, 0.7, 1.3, -0.4
    members = np.random.default_rng(1).normal(mean, spread, (2, count))
    found = np.asarray(scores.crps(*jnp.asarray(members - observed)))
    z = (observed - mean) / spread
    expected = spread * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )
    assert (found >= 0).all()
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(count)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_crps_is_never_negative_and_equals_its_definition(dtype):
    x, other = np.random.default_rng(2).normal(0, 1, (2, 10_000)).astype(dtype)
    x[:100] = other[:100] = 1e8  # where a difference of means would be all round-off
    found = np.asarray(scores.crps(x, other))
    assert (found >= 0).all()
    wide = np.float64(x), np.float64(other)
    expected = (abs(wide[0]) + abs(wide[1]) - abs(wide[0] - wide[1])) / 2
    np.testing.assert_allclose(found, expected, 1e-6, 1e-12)


def test_crps_over_waves_is_at_most_the_error(modal):
    error = modal[1]
    alone = scores.mean_over_waves(jnp.abs(error), GRID.truncation)
    assert (alone <= np.sqrt(scores.mean_square(error))).all()
    white = jnp.ones_like(error) * (error != 0)
    expected = np.sqrt(scores.mean_square(white))
    found = scores.mean_over_waves(white, GRID.truncation)
    np.testing.assert_allclose(found, expected, 1e-12)


# ---- leads

LOSS = Loss(
    weights=(("mse_data", 1.0),),
    amplitudes=(),
    log_surface_pressure=1.0,
    least_level=30.0,
    lead_hours=24.0,
    spectrum_lead_hours=40.0,
    spectrum_cutoff=0.667,
    crps_cutoff=0.667,
    low_pass=((12.0, 30.0), (48.0, 10.0)),
)


def test_lead_weights():
    hours = np.array([0.0, 6.0, 24.0, 40.0, 72.0])
    for score in ("mse", "spectrum", "bias", "crps", "crps_grid"):
        assert lead_weights(LOSS, score, hours).mean() == pytest.approx(1)
    squares = lead_weights(LOSS, "mse", hours)
    np.testing.assert_allclose(squares / squares[0], 1 / (1 + hours / 24))
    for score in ("bias", "crps", "crps_grid"):
        weights = lead_weights(LOSS, score, hours)
        np.testing.assert_allclose(weights / weights[0], (1 + hours / 24) ** -0.5)
    spectra = lead_weights(LOSS, "spectrum", hours)
    np.testing.assert_allclose(spectra / spectra[0], 1 / (1 + (hours / 40) ** 4))


def test_low_pass():
    wavenumbers = np.arange(41)
    passed = low_pass(LOSS, wavenumbers, [0, 6, 12, 24, 48, 96])
    np.testing.assert_array_equal(passed[:2], 1)
    for lead, cutoff in ((2, 30), (4, 10), (5, 10)):
        assert passed[lead, cutoff] == pytest.approx(np.exp(-1))
        assert passed[lead, cutoff // 2] > 0.999
        assert passed[lead, cutoff + cutoff // 3] < 1e-6
    between = 30 ** (2 / 3) * 10 ** (1 / 3)
    np.testing.assert_allclose(passed[3], np.exp(-((wavenumbers / between) ** 24)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weights": ()}, "all of its weights"),
        ({"weights": (("mse_data", -1.0),)}, "mse_data=-1.0 must not be negative"),
        ({"lead_hours": 0.0}, "lead_hours=0.0 must be more than 0"),
        ({"crps_cutoff": 1.5}, "crps_cutoff=1.5 must be within"),
        ({"low_pass": ((48.0, 10.0), (12.0, 30.0))}, "ascending"),
    ],
)
def test_losses_that_make_no_sense_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LOSS, **changes)


def test_terms_that_compare_members_are_known():
    for name in TERMS:
        loss = dataclasses.replace(LOSS, weights=((name, 1.0),))
        assert loss.needs_members == name.startswith("crps")
