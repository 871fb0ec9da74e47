"""The sample planet: an ERA5-shaped data set that nobody has to download.

Our own core is run with continents and mountains drawn from a seed, a moist
atmosphere and the idealised physics of `model.physics.idealised`, and written every
six hours on latitudes and longitudes with poles, on ERA5's 37 pressure levels, under
ERA5's names and units. It is simulated, and says so in every attribute.
"""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator
from concurrent import futures

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
import zarr

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import (
    exponential_factors,
    exponential_filter,
    filtered,
)
from model.dynamics.forcing import Forced
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.physics.columns import Surroundings, to_columns, to_spectral
from model.physics.idealised import idealised_physics, surface_profile
from model.physics.solar import solar_flux
from model.sphere import legendre
from model.sphere.grids import parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.sphere.waves import Waves
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError
from pipeline.fields import create_fields
from pipeline.progress import progress
from pipeline.variables import MODEL_VARIABLES, PRESSURE_LEVELS, VARIABLES

GRID = parse_grid("T31")
SIGMA = SigmaLevels.equidistant(16)
STEP_MINUTES = 30
STEPS = 12  # between two outputs, 6 h
NOTE = (
    "SIMULATED: an idealised planet made by podgcm sample; not observations, not ERA5"
)

DIMENSIONS = {
    "levels": ("time", "level", "latitude", "longitude"),
    "surface": ("time", "latitude", "longitude"),
    "static": ("latitude", "longitude"),
}
Synthesis = Callable[[jax.Array], jax.Array]
"""From spectral coefficients [..., 2, m, l] to points of some kind."""

LAND_FRACTION = 0.3
FREEZING = 271.35  # K, of sea water


def spectral_tables(
    latitude: np.ndarray, longitude: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tables of any points: P and H [m, l, latitude], Fourier [2, m, longitude]."""
    m = np.arange(GRID.truncation + 1)[:, None]
    angle = m * np.deg2rad(longitude)
    norm = np.where(m == 0, np.sqrt(0.5), 1.0) / np.sqrt(np.pi)
    fourier = np.stack([norm * np.cos(angle), norm * np.sin(angle)])
    table = legendre.associated_legendre(GRID.truncation, np.sin(np.deg2rad(latitude)))
    both = (x[:, : GRID.truncation + 1] for x in (table, legendre.slopes(table)))
    return tuple(jnp.asarray(x, jnp.float32) for x in (*both, fourier))


def synthesise(
    tables: tuple[jax.Array, jax.Array, jax.Array], field: jax.Array | Waves
) -> jax.Array:
    """A field of values and slopes at `tables`' points: [..., latitude, longitude]."""
    values, slopes, fourier = tables
    waves = field if isinstance(field, Waves) else Waves(field)
    n = GRID.truncation + 1  # without padding
    return sum(
        jnp.einsum(
            "mlj,cmi,...cml->...ji", table, fourier, x[..., :n, :n], precision="highest"
        )
        for table, x in ((values, waves.values), (slopes, waves.slopes))
        if x is not None
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Planet:
    """The ground of the planet, spectral [2, m, l] on `GRID`.

    Attributes:
      orography: surface geopotential, model units.
      continents: land where positive.
      sea_anomaly, sea_drift: of the sea surface temperature, K; constant, and the
        amplitude of a slow oscillation.
    """

    orography: jax.Array
    continents: jax.Array
    sea_anomaly: jax.Array
    sea_drift: jax.Array

    def land_sea_mask(self, to_nodal: Synthesis) -> jax.Array:
        """Fraction of land at the points of `to_nodal`."""
        return jax.nn.sigmoid(20 * to_nodal(self.continents))

    def sea(
        self, to_nodal: Synthesis, sin_latitude: jax.Array, days: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Sea surface temperature (K) and ice cover, `days` after the data's start.

        At the points of `to_nodal`, to which `sin_latitude` is broadcast.
        """
        anomaly = self.sea_anomaly + self.sea_drift * jnp.sin(2 * jnp.pi * days / 60)
        temperature = surface_profile(sin_latitude) + to_nodal(anomaly)
        ice = jnp.clip((FREEZING - temperature) / 4, 0, 1)
        return jnp.maximum(temperature, FREEZING), ice


def make_planet(seed: int, harmonics: SphericalHarmonics) -> Planet:
    """Draws continents, mountains and sea from `seed`."""
    rng = np.random.default_rng(seed)

    def random_field(largest: int) -> np.ndarray:
        """Standardised, with waves up to l = `largest`; [2, m, l]."""
        waves = harmonics.mask * (harmonics.total_wavenumber <= largest)
        waves = waves * (harmonics.total_wavenumber > 0)
        values = _normal(rng, harmonics) * waves
        return values * np.sqrt(4 * np.pi) / np.linalg.norm(values)

    continents = random_field(6)
    height = np.asarray(harmonics.synthesis(jnp.asarray(continents, jnp.float32)))
    threshold = np.quantile(height[6:-6], 1 - LAND_FRACTION)  # poles are oversampled
    continents[0, 0, 0] = -threshold * np.sqrt(4 * np.pi)
    land = height - threshold > 0

    sin = GRID.sin_latitude[:, None]
    latitude = np.arcsin(sin)
    longitude = np.deg2rad(GRID.longitude_degrees)[None, :]
    mountains = np.zeros(GRID.shape)
    sites = np.argwhere(land & (np.abs(sin) < 0.9))
    for j, i in rng.choice(sites, size=6, replace=False):
        # Ridges are longer from south to north than from west to east.
        east = (longitude - longitude[0, i] + np.pi) % (2 * np.pi) - np.pi
        east = east * np.cos(latitude[j]) / 0.16
        north = (latitude - latitude[j]) / 0.3
        peak = rng.uniform(1500, 3500) * units.METRE * units.GRAVITY
        mountains = np.maximum(mountains, peak * np.exp(-(east**2 + north**2)))
    mountains *= 1 / (1 + np.exp(-8 * (height - threshold)))
    # Smoothed before it is truncated, so that it rings little over the sea.
    smooth = exponential_factors(GRID, attenuation=4.0, order=2)
    return Planet(
        orography=harmonics.analysis(jnp.asarray(mountains, jnp.float32)) * smooth,
        continents=jnp.asarray(continents, jnp.float32),
        sea_anomaly=jnp.asarray(2.0 * random_field(8), jnp.float32),
        sea_drift=jnp.asarray(1.0 * random_field(8), jnp.float32),
    )


def _normal(rng: np.random.Generator, harmonics: SphericalHarmonics) -> np.ndarray:
    """Random numbers [2, m, l].

    Two more l are drawn, so that a seed has the planet that it has always had.
    """
    parts, m, l = harmonics.modal_shape  # noqa: E741
    return rng.standard_normal((parts, m, l + 2))[..., :l]


def initial_state(equations: PrimitiveEquations, seed: int) -> State:
    """A zonal jet over the planet's mountains, with random small eddies."""
    harmonics = equations.harmonics
    state = baroclinic_wave.initial_state(harmonics, SIGMA, perturbation=0.0)
    rng = np.random.default_rng([seed, 1])
    wave = harmonics.total_wavenumber
    eddies = _normal(rng, harmonics) * harmonics.mask
    eddies = eddies * ((wave > 4) & (wave < 16)) * 2e-3
    # Pressure at which the flat atmosphere has the height of the ground.
    height = equations.orography - baroclinic_wave.orography(harmonics)
    lnps = -height / (units.GAS_CONSTANT * 280.0)
    aloft, to_poles = SIGMA.centers**4, 1 - GRID.sin_latitude**2
    moist = 0.01 * aloft[:, None, None] * to_poles[:, None]
    moist = np.broadcast_to(moist, (SIGMA.layers, *GRID.shape))
    humidity = harmonics.analysis(jnp.asarray(moist, jnp.float32))
    tracers = {name: jnp.zeros_like(humidity) for name in CONDENSATES}
    return dataclasses.replace(
        state,
        vorticity=state.vorticity + jnp.asarray(eddies, jnp.float32),
        log_surface_pressure=lnps,
        tracers={HUMIDITY: humidity, **tracers},
    )


def surroundings_of(
    equations: PrimitiveEquations,
    planet: Planet,
    time: jax_datetime.Datetime,
    days: jax.Array,
) -> Surroundings:
    """What bounds the planet's columns at `time`, and `days` after the data's start."""
    harmonics = equations.harmonics
    sin = harmonics.sin_latitude
    land = planet.land_sea_mask(harmonics.to_nodal)
    sea, ice = planet.sea(harmonics.to_nodal, sin, days)
    return Surroundings(
        sea_surface_temperature=sea,
        sea_ice_cover=ice,
        land_sea_mask=land,
        surface_geopotential=harmonics.to_nodal(equations.orography),
        surface_slopes=jnp.zeros((3, *land.shape)),  # no part of this physics
        solar_flux=solar_flux(time, sin, jnp.asarray(GRID.longitude_degrees)),
        sin_latitude=sin,
    )


def hidden_forcing(
    equations: PrimitiveEquations, state: State, surroundings: Surroundings
) -> State:
    """Tendencies of the planet's physics, which its data do not tell, spectral."""
    columns = to_columns(equations.harmonics, state, equations.reference_temperature)
    physics = idealised_physics(SIGMA)
    return to_spectral(equations.harmonics, physics(columns, surroundings))


@functools.partial(jax.jit, donate_argnames="state")
def six_hours(
    equations: PrimitiveEquations,
    planet: Planet,
    state: State,
    time: jax_datetime.Datetime,
    days: jax.Array,
) -> State:
    """Integrates core and physics from `time`, `days` after the data's start."""
    ordered = equations.ordered
    smooth = exponential_filter(GRID, STEP_MINUTES, 120.0, order=3, waves=ordered.waves)

    def step(state: State, index: jax.Array) -> tuple[State, None]:
        now = time + index * jax_datetime.to_timedelta(STEP_MINUTES, "m")
        surroundings = surroundings_of(equations, planet, now, days)
        forcing = equations.enter(hidden_forcing(equations, state, surroundings))
        core_step = imex_step(Forced(ordered, forcing), STEP_MINUTES * units.HOUR / 60)
        after = filtered(core_step, [smooth])(equations.enter(state))
        return equations.leave(after), None

    return jax.lax.scan(step, state, jnp.arange(STEPS))[0]


@jax.jit
def on_pressure_levels(
    equations: PrimitiveEquations,
    planet: Planet,
    tables: tuple[jax.Array, jax.Array],
    sin_latitude: jax.Array,
    state: State,
    days: jax.Array,
) -> dict[str, jax.Array]:
    """The state as ERA5 variables in SI units, [level, latitude, longitude].

    Winds, temperature and tracers are linear in ln(p) between layers and constant
    beyond; geopotential is the cubic that has the hydrostatic slope at every layer.
    """
    to_nodal = functools.partial(synthesise, tables)
    sin_latitude = sin_latitude[:, None]
    cos = jnp.sqrt(1 - sin_latitude**2)
    h = equations.harmonics
    u, v = (
        to_nodal(h.of_both(x)) for x in h.cos_wind(state.vorticity, state.divergence)
    )
    temperature = to_nodal(state.temperature)
    temperature += equations.reference_temperature[:, None, None]
    tracers = {name: to_nodal(x) for name, x in state.tracers.items()}
    virtual = temperature * (1 + (units.VAPOUR_GAS_RATIO - 1) * tracers[HUMIDITY])
    surface = to_nodal(equations.orography)
    matrix = units.GAS_CONSTANT * SIGMA.geopotential_matrix
    geopotential = surface + jnp.tensordot(
        jnp.asarray(matrix, virtual.dtype), virtual, axes=1, precision="highest"
    )
    lnps = to_nodal(state.log_surface_pressure)
    nodes = jnp.log(jnp.asarray(SIGMA.centers, jnp.float32))
    target = jnp.log(jnp.asarray(PRESSURE_LEVELS, jnp.float32) / 1000)
    target = target[:, None, None] - lnps

    below = jnp.clip(jnp.searchsorted(nodes, target), 1, SIGMA.layers - 1)
    spacing = nodes[below] - nodes[below - 1]
    raw = (target - nodes[below - 1]) / spacing
    t = jnp.clip(raw, 0, 1)

    def ends(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            jnp.take_along_axis(x, below - 1, axis=0),
            jnp.take_along_axis(x, below, axis=0),
        )

    def linear(x: jax.Array) -> jax.Array:
        upper, lower = ends(x)
        return upper + t * (lower - upper)

    upper, lower = ends(geopotential)
    slope_upper, slope_lower = (
        -units.GAS_CONSTANT * x * spacing for x in ends(virtual)
    )
    hydrostatic = (
        (1 + 2 * t) * (1 - t) ** 2 * upper
        + t**2 * (3 - 2 * t) * lower
        + t * (1 - t) ** 2 * slope_upper
        - t**2 * (1 - t) * slope_lower
        + jnp.where(raw > 1, slope_lower, slope_upper) * (raw - t)
    )
    sea, ice = planet.sea(to_nodal, sin_latitude, days)
    land = planet.land_sea_mask(to_nodal)
    return {
        "geopotential": hydrostatic / units.GEOPOTENTIAL,
        "temperature": linear(temperature),
        "u_component_of_wind": linear(u / cos) / units.VELOCITY,
        "v_component_of_wind": linear(v / cos) / units.VELOCITY,
        # Spectral advection undershoots; the data are clipped, as ERA5 is.
        **{name: jnp.maximum(linear(x), 0) for name, x in tracers.items()},
        "sea_surface_temperature": jnp.where(land > 0.5, jnp.nan, sea),
        "sea_ice_cover": jnp.where(land > 0.5, jnp.nan, ice),
        "geopotential_at_surface": surface / units.GEOPOTENTIAL,
        "land_sea_mask": land,
    }


def make_core(seed: int) -> tuple[PrimitiveEquations, Planet]:
    """The dynamical core of the planet of a seed, and its ground."""
    planet = make_planet(seed, SphericalHarmonics.create(GRID))
    reference = baroclinic_wave.reference_temperature(SIGMA)
    return PrimitiveEquations.create(GRID, SIGMA, reference, planet.orography), planet


def simulate(
    equations: PrimitiveEquations,
    planet: Planet,
    seed: int,
    spin_up_days: int,
    times: np.ndarray,
) -> Iterator[tuple[np.datetime64, jax.Array, State]]:
    """The planet's states, after it has spun up for so long.

    Args:
      equations, planet: of `make_core`.
      seed: of the first eddies.
      spin_up_days: before the first time.
      times: six hours apart.

    Yields:
      Time, days since the first one, and the state, which is overwritten by the next.
    """
    state = initial_state(equations, seed)
    count = 4 * spin_up_days
    for index in progress(range(-count, len(times)), "sample: simulated quarter days"):
        now = times[0] + index * np.timedelta64(6, "h")
        days = jnp.float32(index / 4)
        if index >= 0:
            yield now, days, state
        time = jax_datetime.to_datetime(now)
        state = six_hours(equations, planet, state, time, days)


def make_sample(
    output: str,
    days: int = 40,
    spin_up_days: int = 30,
    seed: int = 0,
    longitudes: int = 128,
    start: str = "2001-01-01",
) -> None:
    """Writes the sample data set to `output`.

    Args:
      output: path of the Zarr store; must not exist.
      days: of data, 6-hourly.
      spin_up_days: integrated before the data's first time.
      seed: of continents, mountains, sea and the atmosphere's first eddies.
      longitudes: of the output; it has half as many latitudes, and one more.
      start: first time of the data.

    Raises:
      UserError: if `output` exists, or the integration becomes unstable.
    """
    path = pathlib.Path(output)
    if path.exists():
        raise UserError(f"{path} exists: remove it, or give another place")
    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)

    equations, planet = make_core(seed)
    times = np.datetime64(start, "ns") + np.timedelta64(6, "h") * np.arange(4 * days)
    latitude = np.linspace(90, -90, longitudes // 2 + 1)
    longitude = 360 / longitudes * np.arange(longitudes)
    # Winds are limits at the poles, taken a few kilometres beside them.
    inside = np.clip(latitude, -89.95, 89.95)
    tables = spectral_tables(inside, longitude)
    sines = jnp.asarray(np.sin(np.deg2rad(inside)), jnp.float32)
    attrs = {
        "title": "PodGCM sample planet",
        "source": NOTE,
        "seed": seed,
        "spin_up_days": spin_up_days,
        "core": f"{GRID}, {SIGMA.layers} sigma layers, dt {STEP_MINUTES} min",
        "physics": "model.physics.idealised: Held-Suarez, surface, water cycle",
    }
    coordinates = {
        "time": times,
        "level": np.asarray(PRESSURE_LEVELS),
        "latitude": latitude,
        "longitude": longitude,
    }
    dimensions = {n: DIMENSIONS[VARIABLES[n].kind] for n in MODEL_VARIABLES}
    group = create_fields(unfinished, coordinates, dimensions, attrs, NOTE)

    def write(index: int, fields: dict[str, jax.Array]) -> None:
        for name, values in fields.items():
            if VARIABLES[name].kind != "static":
                group[name][index] = np.asarray(values)
            elif index == 0:
                group[name][...] = np.asarray(values)

    with futures.ThreadPoolExecutor(max_workers=1) as writer:
        pending: futures.Future | None = None
        states = simulate(equations, planet, seed, spin_up_days, times)
        for index, (now, since, state) in enumerate(states):
            fields = on_pressure_levels(equations, planet, tables, sines, state, since)
            if not np.isfinite(fields["temperature"]).all():
                raise UserError(f"the simulation became unstable at {now}")
            if pending is not None:
                pending.result()
            pending = writer.submit(write, index, fields)
        if pending is not None:
            pending.result()
    zarr.consolidate_metadata(unfinished, zarr_format=2)
    unfinished.rename(path)
