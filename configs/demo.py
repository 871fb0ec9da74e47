"""The demo: a small model of the sample planet, on 8 virtual devices of a CPU.

  podgcm train --config=configs/demo.py --data.store=... --workdir=...

See the README for what comes out and how long it takes.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.train_times = "2001-01-01/2001-02-03"
    config.data.eval_times = "2001-02-06/2001-02-13"
    config.data.frames = 3
    config.model.dycore_grid = "T21"
    config.model.layers = 12
    config.model.step_minutes = 60
    config.model.substeps = 1
    config.mesh.data = 2
    config.mesh.level = 2
    config.mesh.lat = 2
    config.optimizer.decay_steps = 120
    config.train.steps = 120
    config.train.checkpoint_every = 20
    config.train.eval_every = 40
    return config
