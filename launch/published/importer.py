"""A published NeuralGCM checkpoint becomes a run folder, to forecast or train from.

The folder is that of a run that has taken no step: its configuration, parameters and
scales. Beside them lies the ground that the weights were trained over, which forecasts
with them use.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from launch.published.checkpoint import Published, read_published
from launch.published.gin import parse
from launch.published.options import model_config, noise_names
from launch.published.statistics import published_scales
from launch.published.weights import published_params
from model.scales import Scales
from model.spec import ModelSpec
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from train import build
from train.checkpoint import Checkpoints
from train.config import to_json
from train.folder import Ground
from train.step import Params, initial_state, state_from


def import_neuralgcm(path: str, output: str) -> None:
    """Makes a run folder of a checkpoint.

    Args:
      path: of the checkpoint, a pickle.
      output: folder to make.

    Raises:
      UserError: if the folder exists, the file is no such checkpoint or asks for more
        than arrays and containers, or it has an option or an array that is not known.
    """
    if "://" in output:
        raise UserError(
            f"--output={output}: import to a disk, then copy the folder to the bucket"
        )
    folder = pathlib.Path(output)
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or give another --output")
    published = read_published(path)
    try:
        config, spec, params, scales = translate(published)
    except UserError:
        raise
    except Exception as error:  # of any kind: its values may be anything
        raise UserError(
            f"the configuration in {path} cannot be used: "
            f"{type(error).__name__}: {error}"
        ) from error
    optimizer = build.build_optimizer(config)
    shapes = jax.eval_shape(lambda: initial_state(spec, optimizer, 0))
    _check_complete(params, shapes.params)
    params = jax.tree.map(jnp.asarray, params)
    state = state_from(params, optimizer)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be made: {error}") from error
    content = {**to_json(config), "data_fingerprint": "", "imported_from": str(path)}
    (unfinished / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    ground(published).save(unfinished)
    about = {"order": 0, "evaluated": True, "config": to_json(config)}
    with Checkpoints(unfinished, 1, 0, 20.0, 0) as checkpoints:
        checkpoints.save(0, state, scales, about)
    unfinished.rename(folder)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(
        f"{folder}: {count:,} parameters in {len(published.parameters)} arrays, grid "
        f"{config.data.grid}"
    )


def translate(
    published: Published,
) -> tuple[build.ConfigDict, ModelSpec, Params, Scales]:
    """Configuration, specification, parameters and scales of a checkpoint.

    Raises:
      UserError: see `import_neuralgcm`.
    """
    gin = parse(published.config)
    config = model_config(gin)
    levels = published.statics.get("level")
    if levels is None:
        raise UserError("the checkpoint does not say which pressure levels it is for")
    spec = build.build_spec(config, parse_grid(config.data.grid), levels)
    params = published_params(published.parameters, spec, noise_names(gin))
    return config, spec, params, published_scales(gin, spec)


def ground(published: Published) -> Ground:
    """The ground of a checkpoint.

    Raises:
      UserError: if it has none.
    """
    fields = []
    for name in ("geopotential_at_surface", "land_sea_mask"):
        if name not in published.statics:
            raise UserError(f"the checkpoint lacks the field {name}")
        fields.append(np.asarray(published.statics[name], np.float32).T)
    return Ground(*fields)


def _check_complete(params: Params, shapes: Params) -> None:
    """Every parameter is there and of the right shape, and no other is."""

    def flat(tree: Params) -> dict[str, tuple[int, ...]]:
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }

    ours, theirs = flat(shapes), flat(params)
    if ours != theirs:
        names = sorted(set(ours.items()) ^ set(theirs.items()))
        raise UserError(f"the checkpoint does not fit its configuration: {names[0]}")
