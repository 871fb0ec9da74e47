"""Non-dimensional units of the model, and the constants of air and Earth in them.

Length is Earth's radius, time is 1 / (2 Omega), pressure is p00 = 1e5 Pa and
temperature 1 K; so radius, 2 Omega and p00 are 1. With p00 as the unit ln(ps) is
close to 0, which keeps reduced-precision transforms of it harmless.
"""

EARTH_RADIUS = 6.37122e6  # m
ANGULAR_VELOCITY = 7.292e-5  # 1/s

METRE = 1 / EARTH_RADIUS
SECOND = 2 * ANGULAR_VELOCITY
PASCAL = 1e-5
VELOCITY = METRE / SECOND  # m/s
GEOPOTENTIAL = VELOCITY**2  # m2/s2
HOUR = 3600 * SECOND
DAY = 24 * HOUR

GRAVITY = 9.80616 * METRE / SECOND**2
KAPPA = 2 / 7
_CP = 1004.0  # J/kg/K
GAS_CONSTANT = KAPPA * _CP * GEOPOTENTIAL  # of dry air, 286.86 J/kg/K
VAPOUR_GAS_RATIO = 461.0 / (KAPPA * _CP)  # Rv / R
VAPOUR_HEAT_RATIO = 1859.0 / _CP  # cpv / cp
LATENT_HEAT_OVER_CP = 2.501e6 / _CP  # K, of vaporisation

# Factor from the SI units of the data to model units, by ERA5 variable name.
DATA_UNITS = {
    "geopotential": GEOPOTENTIAL,
    "geopotential_at_surface": GEOPOTENTIAL,
    "u_component_of_wind": VELOCITY,
    "v_component_of_wind": VELOCITY,
}


def to_model(name: str, value):
    """Values of an ERA5 variable from SI units to model units; any array type."""
    return value * DATA_UNITS.get(name, 1.0)


def to_si(name: str, value):
    """Values of an ERA5 variable from model units to SI units; any array type."""
    return value / DATA_UNITS.get(name, 1.0)
