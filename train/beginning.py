"""Where an attempt begins: at the newest whole checkpoint, or afresh."""

import dataclasses

import jax
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from model.neural_gcm import NeuralGCM
from model.scales import Scales, abstract_scales
from model.spec import ModelSpec
from pipeline.errors import UserError
from train import build, checkpoint, processes
from train.calibration import calibrate, with_scales
from train.config import to_json
from train.exit_codes import Failed
from train.experiment import Experiment
from train.folder import RunFolder
from train.ledger import Ledger
from train.mesh import place, tree_shardings
from train.processes import say
from train.programs import Programs
from train.rollback import set_obsolete_aside
from train.step import TrainState


@dataclasses.dataclass
class Beginning:
    """All that the first step needs.

    Attributes:
      step: number of steps taken so far.
      evaluated: whether the evaluation due at that step was made.
      order: of the data; another one after every rollback.
      state: parameters and all else that training changes.
      scales: of the model, replicated.
      model: its tables, with the scales.
    """

    step: int
    evaluated: bool
    order: int
    state: TrainState
    scales: Scales
    model: NeuralGCM


def begin(
    experiment: Experiment, programs: Programs, folder: RunFolder, ledger: Ledger
) -> Beginning:
    """Restores the newest checkpoint that is whole, onto this mesh, or draws afresh.

    Those that a rollback has left behind are moved to `rolled_back/`, damaged ones that
    are newer to `damaged/`.

    Raises:
      Failed: if there are checkpoints, but none can be used.
    """
    config, spec = experiment.config, experiment.spec
    shapes, shardings = programs.shapes, programs.shardings
    with ledger.during("restore"):
        order = processes.on_first("rollbacks", lambda: set_obsolete_aside(folder.path))
        try:
            saved, bad = checkpoint.read_newest(
                folder.path, shapes, abstract_scales(spec)
            )
        except checkpoint.NoneFits as error:
            raise Failed(
                f"{error}; nothing was changed. Put back a copy of one, or give "
                "another --workdir to start afresh"
            ) from error
        if bad:
            processes.on_first("aside", lambda: checkpoint.set_aside(folder.path, bad))

    if saved:
        state, scales = place(saved.state, shardings), saved.scales
        order = max(order, saved.record["order"])
    else:
        state = jax.jit(programs.fresh_state, out_shardings=shardings)()
        scales = calibrated(experiment)
        if config.init_from:
            first = _first_weights(config, shapes, spec)
            params, ema = (place(first.state["ema"], shardings.params) for _ in "12")
            state = dataclasses.replace(state, params=params, ema=ema)
            # Errors are still measured in changes of this run's own data.
            scales = dataclasses.replace(
                scales, inputs=first.scales.inputs, outputs=first.scales.outputs
            )
    model = placed_model(experiment, scales)
    beginning = Beginning(
        step=saved.step if saved else 0,
        # Of a fresh draw there is nothing to tell; of another's weights there is.
        evaluated=saved.record["evaluated"] if saved else not config.init_from,
        order=order,
        state=state,
        scales=model.scales,
        model=model,
    )
    _tell(beginning, experiment, folder)
    return beginning


def placed_model(experiment: Experiment, scales: Scales) -> NeuralGCM:
    """The tables of the model, on the mesh."""
    mesh = experiment.mesh
    model = build.build_model(experiment.spec, experiment.store, mesh.shape["lat"])
    model = with_scales(model, scales)
    return place(model, tree_shardings(mesh, model.layout()))


def _first_weights(
    config: ConfigDict, shapes: TrainState, spec: ModelSpec
) -> checkpoint.Saved:
    """Averaged parameters and scales of another run, for a new one to start from.

    Raises:
      UserError: if there are none, or they are of another model.
      Failed: if storage does not answer.
    """
    folder = config.init_from
    try:
        saved, bad = checkpoint.read_newest(
            folder, {"ema": shapes.ema}, abstract_scales(spec)
        )
    except checkpoint.NoneFits as error:
        raise UserError(
            f"config.init_from={folder}: {error}; does config.model equal that of "
            f"{folder}/config.json, and are data and levels alike?"
        ) from error
    if saved is None:
        raise UserError(f"config.init_from={folder} has no checkpoint")
    for step, reason in bad.items():
        say(f"{folder}: checkpoint {step} is not used: {reason}")
    theirs = saved.record["config"]["model"]
    for name, value in to_json(config)["model"].items():
        if name in theirs and theirs[name] != value:
            say(
                f"NOTE: {folder} was trained with model.{name}={theirs[name]}, "
                f"and this run has {value}"
            )
    return saved


def calibrated(experiment: Experiment) -> Scales:
    """Scales from the data: of process 0, so that all have the same bits."""
    windows = experiment.windows[0]
    if processes.is_first():
        model = build.build_model(experiment.spec, experiment.store)
        scales = calibrate(model, windows.store, windows.first, windows.last)
    else:
        shapes = abstract_scales(experiment.spec)
        scales = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    if processes.count() == 1:
        return scales
    processes.gather("calibrated", True)  # exchanges of devices wait for no one long
    return multihost_utils.broadcast_one_to_all(scales)


def _tell(beginning: Beginning, experiment: Experiment, folder: RunFolder) -> None:
    """Says what is trained, and writes `parameters.txt`."""
    params, mesh = beginning.state.params, experiment.mesh
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    if processes.is_first():
        (folder.path / "parameters.txt").write_text(overview + "\n")
    say(
        f"{'resuming at step' if beginning.step else 'training from step'} "
        f"{beginning.step} of {experiment.config.train.steps}: "
        f"{parameter_overview.count_parameters(params):,} parameters, "
        f"{len(experiment.windows[0])} windows, mesh {dict(mesh.shape)} of "
        f"{mesh.devices.flat[0].platform} devices"
        + f" of {processes.count()} processes"
        * (processes.count() > 1)
    )
