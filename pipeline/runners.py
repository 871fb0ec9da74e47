"""Which of Beam's runners does the work, and how it is waited for."""

import importlib
import os
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.errors import UserError
from pipeline.files import one_line

DEFAULT_RUNNER = "FnApiRunner"
# Beam's own DirectRunner first looks for a download (of Prism), and its list of short
# names lacks Dask's.
_RUNNERS = {
    "DirectRunner": DEFAULT_RUNNER,
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
}


def finish_pipeline(pipeline: beam.Pipeline) -> None:
    """Runs it, and waits.

    Raises:
      UserError: if Dask loses workers again and again, or cannot be reached.
    """
    try:
        result = pipeline.run()
        try:
            result.wait_until_finish()
        finally:
            if client := getattr(result, "client", None):  # Dask's, and its cluster
                client.close()
    except Exception as error:
        lost = isinstance(error, OSError) or type(error).__module__.startswith("distri")
        if type(pipeline.runner).__name__ != "DaskRunner" or not lost:
            raise
        raise UserError(
            f"Dask failed: {type(error).__name__}: {one_line(error)}; run the same "
            "command again to go on"
        ) from error


def make_options(runner: str, flags: Sequence[str]) -> PipelineOptions:
    """Options of a Beam pipeline, for a runner and with Beam's own flags.

    Raises:
      UserError: if the runner cannot be used.
    """
    if any(flag.startswith("--runner") for flag in flags):
        raise UserError("give --runner before the lone --, not among Beam's flags")
    flags = list(flags)
    if runner == "DaskRunner":
        try:
            importlib.import_module("distributed")
        except ImportError as error:
            raise UserError(
                "--runner=DaskRunner needs Dask: pip install 'podgcm[dask]'"
            ) from error
        # By default up to 128 items go to one worker, one after the other.
        if not any(flag.startswith("--dask_") and "parti" in flag for flag in flags):
            flags.append("--dask_partition_size=1")
    try:
        options = PipelineOptions(flags, runner=_RUNNERS.get(runner, runner))
        pipeline = beam.Pipeline(options=options)  # Looks at them.
    except (ValueError, ImportError, AttributeError) as error:
        message = one_line(error)
        raise UserError(f"--runner={runner} cannot be used: {message}") from error
    os.rmdir(pipeline.local_tempdir)  # which only a pipeline that runs removes
    return options
