"""The sample planet, learned with a curriculum of rollouts: 6, 24, then 48 hours.

  podgcm train --config=configs/planet.py --config.data.store=demo/tl31 \
      --workdir=demo/curriculum

The demo's model with more layers, trained for longer, all devices as `data`;
`podgcm bench learning` runs it, and tells what it has learned.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.data.frames = 2
    config.stages = (
        (220, {"data.frames": 5, "train.batch": 4}),
        (320, {"data.frames": 9, "train.batch": 4}),
    )
    # As many layers as the planet has, and a filter that spares what it does not damp:
    # with the demo's, forecasts for a day are half as wrong again (850 hPa: 0.56, not
    # 0.38 K).
    config.model.layers = 16
    config.model.filters = ((120.0, 6, 0.0),)
    config.mesh.data = -1
    config.mesh.level = 1
    config.mesh.lat = 1
    config.optimizer.warmup_steps = 20
    config.optimizer.decay_steps = 370
    config.optimizer.ema_decay = 0.95
    config.train.steps = 370
    config.train.batch = 8
    config.train.checkpoint_every = 40
    config.train.eval_every = 80
    config.train.eval_hours = 24
    return config
