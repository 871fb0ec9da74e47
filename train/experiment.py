"""What a configuration describes, checked, and the folder that it claims."""

import dataclasses
import errno
import json
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from model.spec import ModelSpec
from pipeline.errors import UserError, is_outage
from pipeline.store import Store, open_store
from train import build
from train.config import from_json, leaves, to_json
from train.data import Windows, check_store, parse_window
from train.exit_codes import Failed
from train.folder import CONFIG_DRAFT, RunFolder, is_strange
from train.mesh import make_mesh
from train.stages import Stage, stages

# What may differ when a run goes on: it does not change what is computed.
MAY_CHANGE = (
    "mesh.",
    "run.",
    "data.grid",  # the store's own grid is used
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_",
    "train.skips",
    "train.spike",
    "train.lookback",
    "train.rollbacks",
    "train.eval_leads",
    "train.eval_levels",
    "remat.",
    "train.steps",
)
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a configuration describes, without the parameters.

    Attributes:
      config: the configuration.
      store: of the data.
      spec: of the model.
      mesh: of the devices of all processes.
      stages: of the curriculum, in order.
      windows: of the data, to train on in each stage.
      held_out: to evaluate on.
    """

    config: ConfigDict
    store: Store
    spec: ModelSpec
    mesh: Mesh
    stages: list[Stage]
    windows: list[Windows]
    held_out: Windows


def prepare(config: ConfigDict) -> Experiment:
    """Opens the data and checks that all fits together; writes nothing.

    Raises:
      UserError: if it does not.
    """
    store = open_store(config.data.store)
    check_store(store)
    build.check_run(config)
    spec = build.build_spec(config, store.grid, store.levels)
    shape = build.build_mesh_shape(config).filled(jax.device_count())
    of_stages = stages(config)
    for stage in of_stages:
        build.check_rollout(stage.config)
        build.build_objective(stage.config)
        build.build_remat(stage.config)
        shape.check(spec, stage.config.train.batch, config.train.members)
    mesh = make_mesh(shape)
    span = parse_window(store, config.data.train_times)
    windows = [
        Windows(store, *span, stage.config.data.frames, stage.config.data.hours)
        for stage in of_stages
    ]
    for stage, some in zip(of_stages, windows, strict=True):
        if len(some) < stage.config.train.batch:
            raise UserError(
                f"train.batch={stage.config.train.batch} is more than the {len(some)} "
                f"windows of {stage.hours} h that there are"
            )
    held_out = Windows(
        store,
        *parse_window(store, config.data.eval_times),
        build.eval_hours(config) // config.data.hours + 1,
        config.data.hours,
    )
    return Experiment(config, store, spec, mesh, of_stages, windows, held_out)


def prepare_workdir(folder: RunFolder, config: ConfigDict, fingerprint: str) -> None:
    """Makes a run's folder, or checks that it is of the same run.

    Args:
      folder: of the run.
      config: of the run.
      fingerprint: of the data.

    Raises:
      UserError: if it holds a run of another configuration or other data, or something
        else, or may not be written to.
      Failed: if it cannot be written to at present, such as on a full disk.
    """
    file = folder.path / "config.json"
    ours = {**to_json(config), "data_fingerprint": fingerprint}
    try:
        if file.exists():
            text = file.read_text()
            theirs = to_json(from_json(text, str(file)))
            theirs["data_fingerprint"] = json.loads(text).get("data_fingerprint")
            _check_same(folder, ours, theirs)
        elif is_strange(folder.path):
            raise UserError(
                f"{folder.path} is not empty and no run: give another --workdir"
            )
        text = json.dumps(ours, indent=2) + "\n"
        if not file.exists() or file.read_text() != text:
            folder.path.mkdir(parents=True, exist_ok=True)
            draft = folder.path / CONFIG_DRAFT
            draft.write_text(text)
            draft.replace(file)
    except OSError as error:
        if error.errno in _MAY_PASS or is_outage(error):
            raise Failed(f"{folder.path} cannot be written to: {error}") from error
        raise UserError(
            f"--workdir={folder.path} cannot be used ({error}): make it readable and "
            "writable for this user, or give another"
        ) from error


def _check_same(
    folder: RunFolder, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    ours, theirs = (dict(leaves(ConfigDict(x))) for x in (ours, theirs))
    differences = [
        key
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if differences:
        key = differences[0]
        raise UserError(
            f"{folder.path} belongs to another run: {key} is {theirs.get(key)!r} there "
            f"and {ours.get(key)!r} here ({len(differences)} differences); give "
            "another --workdir"
        )
