"""Forecasts from a run: Zarr on pressure levels, six-hourly, one lead after another."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
from ml_collections import ConfigDict

from model.networks import Networks
from model.neural_gcm import NeuralGCM
from model.physics.columns import Physics
from model.physics.idealised import idealised_physics
from model.scales import abstract_scales
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from model.sphere.grids import fold, unfold
from pipeline.errors import UserError
from pipeline.fields import create_fields
from pipeline.progress import progress
from pipeline.store import Store, open_store
from train import build, checkpoint
from train.calibration import with_scales
from train.config import from_json
from train.data import check_store
from train.folder import Ground, open_path
from train.step import Params, initial_state, merge_networks

HOURS = 6  # between leads


def load_run(workdir: str) -> ConfigDict:
    """The configuration of a run.

    Raises:
      UserError: if `workdir` holds no run.
    """
    file = open_path(workdir) / "config.json"
    if not file.exists():
        raise UserError(f"{workdir} holds no run: no config.json in it")
    return from_json(file.read_text(), str(file))


def restore_model(
    workdir: str, config: ConfigDict, store: Store
) -> tuple[NeuralGCM, Params]:
    """The newest checkpoint's model and its averaged parameters, on one device.

    Raises:
      UserError: if the run has no checkpoint, or it does not fit.
    """
    spec = build.build_spec(config, store.grid, store.levels)
    model = build.build_model(spec, store, ground=Ground.load(open_path(workdir)))
    state = jax.eval_shape(
        lambda: initial_state(spec, build.build_optimizer(config), config.seed)
    )
    saved, _ = checkpoint.read_newest(
        workdir, {"ema": state.ema}, abstract_scales(spec)
    )
    if saved is None:
        raise UserError(f"{workdir} has no checkpoint yet: train it first")
    return with_scales(model, saved.scales), jax.device_put(saved.state["ema"])


def initial_times(store: Store, init: str) -> np.ndarray:
    """Indices of the store's times that `init` names.

    Args:
      store: of the initial states.
      init: TIME, or START/STOP/STEP with STEP in hours such as 12h, ends included.

    Raises:
      UserError: if `init` cannot be read or the store lacks one of the times.
    """
    parts = init.split("/")
    try:
        if len(parts) == 1:
            wanted = np.array([np.datetime64(init, "ns")])
        elif len(parts) == 3 and parts[2].endswith("h"):
            start, stop = (np.datetime64(t, "ns") for t in parts[:2])
            wanted = np.arange(
                start,
                stop + np.timedelta64(1, "ns"),
                np.timedelta64(int(parts[2][:-1]), "h"),
            )
        else:
            raise ValueError(init)
    except ValueError:
        raise UserError(
            f"--init={init}: write TIME, or START/STOP/STEP such as "
            "2001-02-06/2001-02-12/12h"
        ) from None
    index = np.searchsorted(store.times, wanted)
    found = index < len(store.times)
    found[found] &= store.times[index[found]] == wanted[found]
    if wanted.size == 0 or not found.all():
        missing = wanted[~found][0] if wanted.size else init
        raise UserError(
            f"--init: {store.path} has no {missing}; it holds {store.times[0]} to "
            f"{store.times[-1]}, every {store.step}"
        )
    return index


def _networks(model: NeuralGCM, params: Params, physics: str) -> Networks | None:
    return merge_networks(model.spec, params) if physics == "learned" else None


@functools.partial(jax.jit, static_argnames="physics")
def _encode(model, params, frame, time, key, physics):
    return model.encode(frame, time, _networks(model, params, physics), key)


@functools.partial(jax.jit, static_argnames="physics")
def _decode(model, params, state, frame, time, physics):
    networks = _networks(model, params, physics)
    return model.decode(state, model.surroundings(frame, time), networks)


@functools.partial(jax.jit, static_argnames="physics")
def _advance(model, params, state, frame, time, physics):
    acting: Networks | Physics | None = _networks(model, params, physics)
    if physics == "oracle":
        acting = idealised_physics(model.spec.sigma)
    return model.rollout(state, frame, time, HOURS, acting)


def forecast(
    workdir: str,
    init: str,
    lead_hours: int,
    output: str,
    physics: str = "learned",
    store_path: str | None = None,
) -> None:
    """Forecasts with the newest checkpoint of a run, every `HOURS` from 0.

    Args:
      workdir: folder of the run.
      init: see `initial_times`.
      lead_hours: of the last lead.
      output: Zarr store to make: (time, prediction_timedelta, level, latitude,
        longitude) for every variable.
      physics: `learned`; `none`, all networks silenced; or `oracle`, the sample
        planet's own physics, with coders that only interpolate.
      store_path: of the initial states; default the run's own data.

    Raises:
      UserError: if an argument cannot be used, or a forecast becomes unstable.
    """
    path = pathlib.Path(output)
    if path.exists():
        raise UserError(f"{path} exists: remove it, or give another --output")
    if lead_hours < 0 or lead_hours % HOURS:
        raise UserError(f"--lead={lead_hours} is not a multiple of {HOURS} hours")
    config = load_run(workdir)
    if not (store_path or config.data.store):
        raise UserError(f"{workdir} was imported, without data: give --store=STORE")
    store = open_store(store_path or config.data.store)
    check_store(store)
    if physics == "oracle" and "podgcm sample" not in str(store.attrs):
        raise UserError(
            f"--physics=oracle is the sample planet's own physics, and {store.path} is "
            "not of it: use learned or none"
        )
    starts = initial_times(store, init)
    model, params = restore_model(workdir, config, store)

    leads = np.arange(0, lead_hours + 1, HOURS)
    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    coordinates = {
        "time": store.times[starts],
        "prediction_timedelta": leads.astype(np.int64),
        "level": store.levels,
        "latitude": store.grid.latitude_degrees,
        "longitude": store.grid.longitude_degrees,
    }
    source = f"podgcm forecast --workdir={workdir} --physics={physics}"
    data = f"{store.attrs.get('title', '')}: {store.attrs.get('source', '')}"
    group = create_fields(
        unfinished,
        coordinates,
        dict.fromkeys(LEVEL_VARIABLES, tuple(coordinates)),
        {
            "title": "PodGCM forecast",
            "source": source,
            "initial_data": data,
            "grid": str(store.grid),
        },
        note=f"{source}, from {data}",
    )
    for i, start in enumerate(progress(starts, f"forecast ({physics}): initial times")):
        fields = store.read_many(
            {
                name: (np.array([start]), slice(None))
                for name in (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
            }
        )
        frame = {name: jnp.asarray(fold(x[0])) for name, x in fields.items()}
        begun = jax_datetime.to_datetime(store.times[start])
        # A forecast's noise depends on the run and on its initial time.
        hours = store.times[start].astype("datetime64[h]").astype(int)
        key = jax.random.fold_in(jax.random.key(config.seed), int(hours))
        state = _encode(model, params, frame, begun, key, physics)
        for j, lead in enumerate(leads):
            now = begun + jax_datetime.to_timedelta(int(lead), "h")
            decoded = _decode(model, params, state, frame, now, physics)
            if not np.isfinite(decoded["temperature"]).all():
                raise UserError(
                    f"the forecast from {store.times[start]} became unstable within "
                    f"{lead} h: use a smaller model.step_minutes, or train longer"
                )
            for name, x in decoded.items():
                group[name][i, j] = unfold(np.asarray(x))
            if lead < lead_hours:
                state = _advance(model, params, state, frame, now, physics)
    unfinished.rename(path)
