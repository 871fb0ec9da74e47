"""The sample planet, learned by an ensemble of two members from their CRPS.

  podgcm train --config=configs/planet_ens.py --config.data.store=demo/tl31 \
      --workdir=demo/ensemble

The demo's model with random fields in encoder and physics; `podgcm bench ensemble`
runs it, and tells whether its spread is as large as its errors.
"""

from ml_collections import ConfigDict

from configs import planet


def get_config() -> ConfigDict:
    config = planet.get_config()
    # Correlated over so many km and hours, from weather systems to the grid's scale.
    config.model.noise = (
        *((4000.0, 24.0), (2000.0, 12.0), (1000.0, 6.0)),
        *((600.0, 3.0), (600.0, 24.0)),
    )
    for name in config.loss:
        if name.endswith(("_data", "_model")):
            config.loss[name] = 0.0
    config.loss.crps_grid_data = 1.0
    config.loss.crps_data = 1.0
    config.stages = ((150, {"data.frames": 5, "train.batch": 2}),)
    config.optimizer.decay_steps = 300
    config.train.members = 2
    config.train.batch = 4
    config.train.steps = 300
    return config
