"""How variables are called and scaled in tables and pictures."""

# Short name, unit for people, factor from SI units.
SHORT = {
    "temperature": ("T", "K", 1.0),
    "u_component_of_wind": ("u", "m/s", 1.0),
    "v_component_of_wind": ("v", "m/s", 1.0),
    "geopotential": ("z", "m2/s2", 1.0),
    "specific_humidity": ("q", "g/kg", 1e3),
    "specific_cloud_ice_water_content": ("ice", "mg/kg", 1e6),
    "specific_cloud_liquid_water_content": ("liquid", "mg/kg", 1e6),
}
MAIN = (
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "geopotential",
    "specific_humidity",
)
LEVELS = (850.0, 500.0, 250.0)


def main_fields(
    variables: tuple[str, ...], levels: list[float]
) -> list[tuple[str, float, int]]:
    """Variable, level, and the level's index, of those that are shown."""
    return [
        (name, level, levels.index(level))
        for name in MAIN
        if name in variables
        for level in LEVELS
        if level in levels
    ]
