"""The paper's model of 1.4 degrees, on 32 chips of a TPU v5p.

  podgcm plan --config=configs/tl127.py --topology=v5p:4x4x2

What `configs/tl63.py` says holds here too (18,343,580 parameters). The paper trained it
on 16 chips of a TPU v4, in about a week. By the TPU compiler 6 hours with gradient take
7.0 GiB a chip and 0.89 s on two v5p chips (modelled).
"""

from ml_collections import ConfigDict

from configs import base, tl63

TRACERS = (
    "specific_humidity",
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
)


def get_config() -> ConfigDict:
    config = tl63.get_config()
    config.data.store = "era5/TL127"
    config.data.grid = "TL127"
    model = config.model
    model.dycore_grid = "125@384x192"
    model.step_minutes = 30
    model.filters = ((120 / 5, 3, 0.0), (8 / 5, 6, 0.4))
    model.tendency_filters = ((8.0, 6, 0.4),)
    model.encoder_filters = (
        ("vorticity", 14.0, 2, 0.62),
        ("divergence", 14.0, 2, 0.62),
        ("temperature", 13.0, 3, 0.45),
        ("log_surface_pressure", 8.0, 1, 0.82),
        *((name, 14.0, 2, 0.62) for name in TRACERS),
    )
    model.reference_temperature = (215.58614815, *tl63.REFERENCE_TEMPERATURE[1:])
    model.decoder_gradients = False
    model.decoder_fields = base.get_config().model.decoder_fields
    model.surface = "constant"
    model.positional = 32
    model.learned_orography = ("encoder", "core", "decoder")
    model.orography_scale = 2e-6
    config.mesh.data = 16
    config.mesh.level = 2
    return config
