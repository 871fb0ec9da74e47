"""Transforms and operators of the sphere against identities and single harmonics."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from model.precision import of_table
from model.sphere.grids import latitude_edges, parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.sphere.quarter_circle import QuarterCircle
from model.sphere.waves import Curl, Flux, RightHandSide, Waves
from model.sphere.whole_circle import WholeCircle
from model.vertical.layers import on_layers

GRIDS = ["T21", "TL31", "31@96x48", "T42", "TL63", "T85", "TL127"]


@pytest.fixture(scope="module", params=GRIDS)
def harmonics(request):
    return SphericalHarmonics.create(parse_grid(request.param), jnp.float64)


def random_modal(harmonics, *lead, seed=0, mean=True):
    values = np.random.default_rng(seed).standard_normal(
        (*lead, *harmonics.modal_shape)
    )
    values = values * harmonics.mask
    values[..., 0, 0] *= mean
    return jnp.asarray(values)


def norm(x):
    return float(jnp.linalg.norm(x))


def test_analysis_inverts_synthesis(harmonics):
    x = random_modal(harmonics, 3)
    assert np.abs(harmonics.analysis(harmonics.synthesis(x)) - x).max() < 1e-12


def test_analysis_inverts_synthesis_at_tl255():
    harmonics = SphericalHarmonics.create(parse_grid("TL255"), jnp.float64)
    x = random_modal(harmonics)
    assert np.abs(harmonics.analysis(harmonics.synthesis(x)) - x).max() < 1e-12


def test_padding_stays_zero(harmonics):
    values = np.random.default_rng(1).standard_normal((3, *harmonics.grid.shape))
    modal = harmonics.analysis(Flux(*jnp.asarray(values)))
    assert np.all(modal[..., harmonics.grid.truncation + 1 :] == 0)


def test_the_top_row_of_published_models():
    """l = n + 1 is analysed and cut off, and slopes of it are those within l = n."""
    grid = parse_grid("31@96x48")
    plain = SphericalHarmonics.create(grid, jnp.float64)
    top = SphericalHarmonics.create(grid, jnp.float64, top=True)
    nodal = jnp.asarray(np.random.default_rng(1).standard_normal(grid.shape))
    modal = top.analysis(nodal)
    assert top.modal_shape[-1] >= 33 and norm(modal[..., 32]) > 0
    assert norm(top.clip(modal)[..., :32] - plain.analysis(nodal)) < 1e-12 * norm(modal)
    within = _own_values(top, Waves(slopes=modal[None]))[0]
    assert np.all(within[..., 32:] == 0)
    slopes = plain.analysis(top.synthesis(Waves(slopes=modal)))
    assert norm(within[..., :32] - slopes) < 1e-12 * norm(slopes)


@pytest.mark.parametrize("l, m", [(0, 0), (1, 0), (1, 1), (5, 3), (20, 20), (21, 2)])
def test_single_harmonics_agree_with_scipy(l, m):  # noqa: E741
    grid = parse_grid("T21")
    harmonics = SphericalHarmonics.create(grid, jnp.float64)
    theta = np.arccos(grid.sin_latitude)[:, None]
    phi = np.deg2rad(grid.longitude_degrees)[None, :]
    complex_harmonic = scipy.special.sph_harm_y(l, m, theta, phi)
    scale = np.sqrt(2) if m else 1.0
    for part, expected in enumerate([complex_harmonic.real, complex_harmonic.imag]):
        if part == 1 and m == 0:
            continue
        modal = np.zeros(harmonics.modal_shape)
        modal[part, m, l] = 1.0
        np.testing.assert_allclose(
            harmonics.synthesis(jnp.asarray(modal)), scale * expected, atol=1e-12
        )


def test_constant_field_and_parseval(harmonics):
    one = harmonics.analysis(jnp.ones(harmonics.grid.shape))
    assert one[0, 0, 0] == pytest.approx(np.sqrt(4 * np.pi), abs=1e-12)
    x = random_modal(harmonics)
    square = np.asarray(harmonics.to_nodal(x)) ** 2
    integral = np.sum(square * np.asarray(harmonics.weights))
    assert integral == pytest.approx(norm(x) ** 2, rel=1e-12)


def _own_values(harmonics, waves):
    """`values_of` of spectral arrays as they are."""
    ordered = harmonics.ordered
    pairs = zip(ordered.bands, ordered.enter(waves), strict=True)
    return ordered.leave(tuple(band.values_of(x) for band, x in pairs))


def test_whole_and_quarter_circles_give_the_same(harmonics):
    """The way of a TPU and that of a CPU, in full precision."""
    shape = harmonics.modal_shape[1:]
    other = dataclasses.replace(
        harmonics,
        transform=WholeCircle.create(harmonics.grid, shape, jnp.float64, "highest"),
    )
    assert isinstance(harmonics.transform, QuarterCircle)
    x, y = random_modal(harmonics, 2), random_modal(harmonics, 2, seed=1)
    for waves in (Waves(x), Waves(slopes=x), Waves(x, y), Waves(x, y, 2 * x - y)):
        nodal = harmonics.to_nodal(waves)
        assert norm(other.to_nodal(waves) - nodal) < 1e-13 * norm(nodal)
        among_waves = harmonics.to_nodal(harmonics.of_both(waves))
        assert norm(among_waves - nodal) < 1e-13 * norm(nodal)
        values, others = (_own_values(h, waves) for h in (harmonics, other))
        assert norm(others - values) < 1e-13 * norm(values)
    for flux in (
        Flux(nodal),
        Flux(None, nodal, nodal**2),
        Flux(nodal, nodal**2, nodal),
    ):
        modal = harmonics.to_modal(flux)
        assert norm(other.to_modal(flux) - modal) < 1e-12 * norm(modal)

    def products(sin_latitude, tables, fields, columns, others):
        (a,) = fields
        mixed = of_table(tables.matrices["mixing"], a)
        mixed += on_layers(tables.vectors["shift"], a)
        product = a * mixed * sin_latitude
        flux = a[:1], product[:1]
        return [
            Flux(product),
            Flux(a[:1] / (2 + sin_latitude), *flux),
            Curl(None, *flux),
        ]

    equation = RightHandSide(
        fields=lambda _, x: [Waves(x)],
        columns=lambda *_: types.SimpleNamespace(planes=None),
        exchanged=lambda planes: planes,
        products=products,
        tendency=lambda _, waves: waves,
    )
    mixing = {"mixing": jnp.asarray([[0.5, 2.0], [-1.0, 0.25]])}
    shift = {"shift": jnp.asarray([[3.0], [4.0]])}

    def formed(h):
        ordered = h.ordered
        tables = ordered.point_tables(mixing, shift)
        made = ordered.through_points(equation, tables, ordered.enter(x))
        return ordered.leave(made)

    pairs = zip(formed(harmonics), formed(other), strict=True)
    assert all(norm(a - b) < 1e-12 * norm(b) for a, b in pairs)


def test_derivatives_of_a_known_field(harmonics):
    """f = sin(lat) cos(lat) cos(lon): d/dlon and cos(lat) d/dlat by hand."""
    sin = harmonics.grid.sin_latitude[:, None]
    cos = np.sqrt(1 - sin**2)
    lon = np.deg2rad(harmonics.grid.longitude_degrees)
    f = harmonics.analysis(jnp.asarray(sin * cos * np.cos(lon)))
    d_lon, d_lat = (harmonics.synthesis(x) for x in harmonics.cos_gradient(f))
    np.testing.assert_allclose(d_lon, -sin * cos * np.sin(lon), atol=1e-12)
    np.testing.assert_allclose(d_lat, cos * (1 - 2 * sin**2) * np.cos(lon), atol=1e-12)


def test_divergence_of_gradient_is_laplacian(harmonics):
    x = random_modal(harmonics)
    east, north = map(harmonics.to_nodal, harmonics.cos_gradient(x))
    divergence, laplacian = (
        harmonics.to_modal(Flux(None, east, -north)),
        harmonics.laplacian(x),
    )
    n = harmonics.grid.truncation  # on linear grids the top row is not exact
    error = norm((divergence - laplacian)[..., :n])
    assert error < 1e-10 * norm(laplacian)
    round_trip = harmonics.inverse_laplacian(laplacian)
    assert norm(round_trip - x.at[..., 0].set(0)) < 1e-12 * norm(x)


def test_wind_keeps_vorticity_and_divergence(harmonics):
    vorticity = random_modal(harmonics, seed=1, mean=False)
    divergence = random_modal(harmonics, seed=2, mean=False)
    u, v = harmonics.wind(vorticity, divergence)
    again = harmonics.vorticity_divergence(u, v)
    assert norm(again[0] - vorticity) < 1e-10 * norm(vorticity)
    assert norm(again[1] - divergence) < 1e-10 * norm(divergence)
    rotational = harmonics.wind(vorticity, 0 * divergence)
    assert norm(harmonics.vorticity_divergence(*rotational)[1]) < 1e-10 * norm(
        vorticity
    )


def test_solid_body_rotation_has_the_known_vorticity(harmonics):
    sin = harmonics.grid.sin_latitude[:, None]
    u = jnp.asarray(np.broadcast_to(np.sqrt(1 - sin**2), harmonics.grid.shape))
    vorticity, divergence = harmonics.vorticity_divergence(u, 0 * u)
    expected = jnp.asarray(np.broadcast_to(2 * sin, harmonics.grid.shape))
    np.testing.assert_allclose(harmonics.synthesis(vorticity), expected, atol=1e-11)
    assert norm(divergence) < 1e-11


def test_gauss_edges_have_the_quadrature_weights_as_areas():
    grid = parse_grid("TL63")
    edges = latitude_edges(grid.latitude_degrees, grid.latitude_weights)
    areas = np.diff(np.sin(np.deg2rad(edges)))
    np.testing.assert_allclose(areas, grid.latitude_weights, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["T99", "31@10x48", "31@98x48", "nonsense", "31x96x48"]
)
def test_bad_grid_names_are_refused(name):
    with pytest.raises(ValueError, match="grid|hold|multiple of 4"):
        parse_grid(name)
