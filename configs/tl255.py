"""A model of the size of the paper's one of 0.7 degrees, on 128 chips of a TPU v5p.

  podgcm plan --config=configs/tl255.py --topology=v5p:4x4x8

What `configs/tl63.py` says holds here too; rollouts begin with 12 hours as there.
"""

from ml_collections import ConfigDict

from configs import tl63


def get_config() -> ConfigDict:
    config = tl63.get_config()
    config.data.store = "era5/TL255"
    config.data.grid = "TL255"
    config.data.train_times = "1979-01-01/2019-12-31"
    config.data.eval_times = "2020-01-02/2020-12-31"
    config.model.dycore_grid = "253@768x384"
    config.model.step_minutes = 30
    config.model.substeps = 8
    config.model.filters = ((120 / 8, 3, 0.0), (4 / 8, 6, 0.4))
    config.mesh.level = 4
    config.mesh.lat = 2
    return config
