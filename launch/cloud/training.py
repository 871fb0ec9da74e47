"""What is checked of a command before anything is created that costs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from launch.cloud.slices import Slice
from launch.cloud.tpu import PROJECT, SOURCE
from pipeline.errors import UserError


def parse_command(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of what stands after the lone --.

    Raises:
      UserError: if it has no folder that all hosts reach, or --dry_run stands there.
      SystemExit: if it is no command of podgcm; argparse has told why.
    """
    from launch.cli import parse

    refuse_dry_run(words)
    command = parse(words) if words else argparse.Namespace(workdir=None)
    if not (getattr(command, "workdir", None) or "").startswith("gs://"):
        raise UserError(
            "after the lone --, write a command with --workdir=gs://BUCKET/RUN, which "
            "all hosts reach, such as: "
            "-- train --config=configs/tl255.py --workdir=gs://BUCKET/RUN"
        )
    return command


def refuse_dry_run(words: Sequence[str]) -> None:
    """Raises UserError if --dry_run stands after the lone --.

    There it would be of the command, and the launch would be real.
    """
    if "--dry_run" in words:
        raise UserError("write --dry_run before the lone --, not after it")


def read_config(command: argparse.Namespace, source: str | None) -> ConfigDict | None:
    """The configuration of a training; None for other commands.

    Args:
      command: of `parse_command`.
      source: the folder that hosts get. None if they get an archive or a container,
        into which nobody looks from here: this project's file of the same name is
        taken for theirs, and if there is none, nothing can be checked.

    Raises:
      UserError: if hosts would lack the file, or it is no configuration.
    """
    if command.command != "train":
        return None
    from train.config import load_config

    path = Path(source or PROJECT, command.config)
    if source and (Path(command.config).parts[0] not in SOURCE or not path.exists()):
        raise UserError(
            f"--config={command.config}: hosts get what lies in {source}/configs, and "
            "find it by a name such as configs/tl255.py"
        )
    if not path.exists():
        print(
            f"podgcm launch: {path} is not here, so its mesh is not checked",
            file=sys.stderr,
        )
        return None
    return load_config(os.fspath(path), command.overrides)


def check_mesh(config: ConfigDict, slice_: Slice, slices: int) -> None:
    """Checks that the mesh of a training fits the chips that are to be rented.

    What depends on the data, such as into how many parts latitudes go, is left to
    `podgcm plan` and to the training itself.

    Args:
      config: of the training.
      slice_: of which kind.
      slices: how many.

    Raises:
      UserError: if it does not fit.
    """
    from train.build import build_mesh_shape  # imports JAX, which takes seconds

    chips = slices * slice_.chips
    shape = build_mesh_shape(config).filled(chips)
    samples = shape.data * shape.ensemble
    used = samples * shape.level * shape.lat
    # A single host may leave chips idle.
    if used > chips or (used < chips and slices * slice_.hosts > 1):
        mesh = ", ".join(f"{axis}={n}" for axis, n in vars(shape).items())
        count = f"{slices} slices of " if slices > 1 else ""
        raise UserError(
            f"the mesh {mesh} has {used} devices, but {count}{slice_.chip}:"
            f"{slice_.topology} has {chips} chips: set --config.mesh.* or --topology"
        )
    if shape.data % slices:
        raise UserError(
            f"mesh.data={shape.data} is not a multiple of --slices={slices}: only "
            "`data` spans slices; set --config.mesh.data"
        )
    if config.train.batch % samples:
        raise UserError(
            f"mesh.data={shape.data} times mesh.ensemble={shape.ensemble} does not "
            f"divide train.batch={config.train.batch}: set --config.mesh.data or "
            "--config.train.batch"
        )
