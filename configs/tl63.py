"""A model of the size of the paper's one of 2.8 degrees, on 16 chips of a TPU v5e.

  podgcm plan --config=configs/tl63.py --topology=v5e:4x4

Grids, layers, levels, time steps and filters are those of Kochkov et al. (2024),
arXiv:2311.07222; the core's grid has two points more along each meridian and parallel,
so that latitudes come in mirror pairs. The networks have the paper's width and depth,
but fewer inputs, and no surface embedding, memory or features per place: they are not
its architecture yet. No run of this configuration has been made.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.store = "era5/TL63"
    config.data.grid = "TL63"
    config.data.train_times = "1979-01-01/2017-12-31"
    config.data.eval_times = "2018-01-02/2018-12-31"
    config.data.frames = 3
    config.model.dycore_grid = "62@192x96"
    config.model.layers = 32
    config.model.step_minutes = 60
    config.model.substeps = 5
    # The paper's 120 and 4 minutes, which act once for every step of the core.
    config.model.filters = ((120 / 5, 3, 0.0), (4 / 5, 10, 0.4))
    config.model.width = 384
    config.model.blocks = 5
    config.model.hidden_layers = 3
    config.mesh.data = 16
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 2000
    config.optimizer.decay_steps = 45_000
    config.optimizer.ema_decay = 0.999
    config.train.batch = 16
    config.train.steps = 45_000
    config.train.checkpoint_every = 500
    config.train.eval_every = 500
    return config
