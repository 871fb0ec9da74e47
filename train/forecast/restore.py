"""The model of a run, to forecast with."""

import hashlib

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from model.neural_gcm import NeuralGCM
from model.scales import abstract_scales
from pipeline.errors import UserError
from pipeline.store import Store
from train import build, checkpoint
from train.calibration import with_scales
from train.config import from_json
from train.folder import Ground, open_path
from train.mesh import place, replicated, tree_shardings
from train.step import Params, initial_state


def load_run(workdir: str) -> ConfigDict:
    """The configuration of a run.

    Raises:
      UserError: if `workdir` holds no run.
    """
    file = open_path(workdir) / "config.json"
    if not file.exists():
        raise UserError(f"{workdir} holds no run: no config.json in it")
    return from_json(file.read_text(), str(file))


def newest_step(workdir: str) -> int:
    """Of a run's checkpoints.

    Raises:
      UserError: if there is none.
    """
    steps = checkpoint.steps(workdir)
    if not steps:
        raise UserError(f"{workdir} has no checkpoint yet: train it first")
    return steps[-1]


def digest(params: Params) -> str:
    """By which weights are told from others."""
    known = hashlib.blake2b(digest_size=16)
    for x in jax.tree.leaves(params):
        known.update(np.asarray(x).tobytes())
    return known.hexdigest()


def restore_model(
    workdir: str,
    config: ConfigDict,
    store: Store,
    mesh: Mesh | None = None,
    step: int | None = None,
) -> tuple[NeuralGCM, Params]:
    """A checkpoint's model and its averaged parameters.

    Args:
      workdir: of the run.
      config: its configuration.
      store: of the initial states.
      mesh: where they are to lie; None is one device.
      step: of the checkpoint; None is the newest that is whole.

    Raises:
      UserError: if the run has no checkpoint, or it does not fit.
    """
    spec = build.build_spec(config, store.grid, store.levels)
    state = jax.eval_shape(
        lambda: initial_state(spec, build.build_optimizer(config), config.seed)
    )
    wanted = {"ema": state.ema}, abstract_scales(spec)
    if step is None:
        newest_step(workdir)
        saved, _ = checkpoint.read_newest(workdir, *wanted)
    else:
        try:
            saved = checkpoint.read(workdir, step, *wanted)
        except (checkpoint.Damaged, checkpoint.OtherModel) as error:
            raise UserError(f"checkpoint {step} of {workdir}: {error}") from error
    shards = 1 if mesh is None else mesh.shape["lat"]
    model = build.build_model(spec, store, shards, Ground.load(open_path(workdir)))
    model, params = with_scales(model, saved.scales), saved.state["ema"]
    if mesh is None:
        return model, jax.device_put(params)
    everywhere = jax.tree.map(lambda _: replicated(mesh), params)
    return (
        place(model, tree_shardings(mesh, model.layout())),
        place(params, everywhere),
    )
