"""The command line, `podgcm`.

A command's own module is imported when it is called, so that `--help` is quick and
preprocessing needs no JAX.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from launch import virtual_devices
from pipeline.errors import Unavailable, UserError
from train import exit_codes

COMMANDS = {
    "sample": (
        "make an ERA5-shaped sample data set (no download)",
        "launch.commands.sample",
    ),
    "preprocess": (
        "regrid ERA5-like data into a sharded store",
        "pipeline.preprocess",
    ),
    "inspect": (
        "what is in a store or a run, and is it whole",
        "launch.commands.inspect",
    ),
    "train": ("train a model, or go on with it", "launch.commands.train"),
    "import-neuralgcm": (
        "make a run's folder of a published NeuralGCM checkpoint",
        "launch.commands.import_neuralgcm",
    ),
    "forecast": ("forecast with a trained model", "launch.commands.forecast"),
    "evaluate": ("score forecasts against the truth", "launch.commands.evaluate"),
    "plan": (
        "what a training step would cost on a TPU slice that is not there",
        "launch.commands.plan",
    ),
    "doctor": (
        "is this machine, or this pod, fit to train, and if not what to do",
        "launch.commands.doctor",
    ),
    "pod": ("run a command as a pod on this machine", "launch.commands.pod"),
    "launch": ("train or preprocess on the cloud", "launch.cloud.arguments"),
    "bench": ("run a benchmark", "launch.commands.bench"),
}
"""By name what it does, and the module that has its `add_arguments` and `run`."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; `overrides` holds what follows --config.* flags."""
    parser = argparse.ArgumentParser(
        prog="podgcm", description="Neural general circulation models, trained on pods."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, place) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary + ".")
        if name == next((a for a in argv if not a.startswith("-")), None):
            module = importlib.import_module(place)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    # What follows a lone -- is another command's.
    end = argv.index("--") if "--" in argv else len(argv)
    own, rest = argv[:end], argv[end:]
    overrides = [a.removeprefix("--config.") for a in own if a.startswith("--config.")]
    args = parser.parse_args(
        [*(a for a in own if not a.startswith("--config.")), *rest]
    )
    takes_overrides = args.command in ("train", "plan", "doctor", "inspect") or (
        args.command == "bench" and args.name == "train"
    )
    if overrides and not takes_overrides:
        parser.error(
            "--config.* flags are for `podgcm train`, `plan`, `doctor`, `inspect` and "
            "`bench train`"
        )
    args.overrides = overrides
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exits as `train.exit_codes` says."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        virtual_devices.prepare()
        code = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `podgcm inspect STORE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UserError as error:
        print(f"podgcm {args.command}: {error}", file=sys.stderr)
        code = exit_codes.USER_ERROR
    except (exit_codes.Failed, Unavailable) as failure:
        print(f"podgcm {args.command}: {failure}", file=sys.stderr)
        code = exit_codes.FAILED
    except exit_codes.Preempted as preempted:
        print(f"podgcm {args.command}: {preempted}", file=sys.stderr)
        code = exit_codes.PREEMPTED
    except KeyboardInterrupt:
        print(f"podgcm {args.command}: interrupted", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = exit_codes.FAILED
    if code not in (None, exit_codes.PREEMPTED) and "train.processes" in sys.modules:
        sys.modules["train.processes"].leave(code)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
