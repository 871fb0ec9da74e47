"""Checkpoints: everything that a run needs to go on, through Orbax.

A step's folder holds `state` (parameters, average, optimizer, step), `scales`, `data`
(position of the loader) and `config`. Saving is asynchronous and atomic: a step is
there whole or not at all.
"""

import pathlib
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from model.scales import Scales
from model.spec import ModelSpec
from pipeline.errors import UserError
from train.calibration import abstract_scales
from train.mesh import Rules, replicated, state_shardings
from train.step import TrainState, initial_state


class Checkpoints:
    """The checkpoints of a run; a context manager that waits for the last save."""

    def __init__(self, workdir: str | pathlib.Path, keep: int | None) -> None:
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: TrainState,
        scales: Scales,
        data: dict[str, Any],
        config: dict[str, Any],
    ) -> None:
        """Starts to save; returns as soon as `state` may be overwritten."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                scales=ocp.args.StandardSave(scales),
                data=ocp.args.JsonSave(data),
                config=ocp.args.JsonSave(config),
            ),
        )

    def restore(
        self,
        step: int,
        spec: ModelSpec,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        rules: Rules = (),
    ) -> tuple[TrainState, Scales, dict[str, Any]]:
        """Restores a step onto `mesh`, whatever mesh it was saved from.

        Args:
          step: which.
          spec, optimizer: of the run; they tell the shapes.
          mesh, rules: where the arrays go.

        Returns:
          State, scales and the loader's position.

        Raises:
          UserError: if the checkpoint is of another model, or damaged.
        """

        def abstract(
            x: jax.ShapeDtypeStruct, sharding: NamedSharding
        ) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        state = jax.eval_shape(lambda: initial_state(spec, optimizer, seed=0))
        state = jax.tree.map(abstract, state, state_shardings(mesh, state, rules))
        scales = jax.tree.map(
            lambda x: abstract(x, replicated(mesh)), abstract_scales(spec)
        )

        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(state),
                    scales=ocp.args.StandardRestore(scales),
                    data=ocp.args.JsonRestore(),
                ),
            )
        # Orbax raises bare exceptions for damaged files, so nothing narrower will do.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            folder = self._manager.directory / str(step)
            raise UserError(
                f"checkpoint {folder} cannot be restored ({lines[0]}): remove that "
                "folder to go on from the one before"
            ) from error
        return restored.state, restored.scales, restored.data
