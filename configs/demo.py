"""The demo: a small model of the sample planet, on 8 virtual devices of a CPU.

  JAX_NUM_CPU_DEVICES=8 podgcm train --config=configs/demo.py \
      --config.data.store=demo/tl31 --workdir=demo/run

`launch/demo.sh` runs it, in about five minutes on 2 cores; the README shows what comes
out.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.store = "demo/tl31"
    config.data.grid = "TL31"
    config.data.train_times = "2001-01-01/2001-02-01"
    config.data.eval_times = "2001-02-03/2001-02-09"
    config.data.frames = 3
    config.model.dycore_grid = "T21"
    config.model.layers = 12
    config.model.step_minutes = 60
    config.model.substeps = 1
    config.mesh.data = 2
    config.mesh.level = 2
    config.mesh.lat = 2
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 8
    config.optimizer.decay_steps = 60
    config.optimizer.ema_decay = 0.9
    config.train.steps = 60
    config.train.batch = 2
    config.train.checkpoint_every = 15
    config.train.eval_every = 30
    return config
