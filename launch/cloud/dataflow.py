"""The preprocessing on Dataflow, and the containers that the cloud runs."""

import json
from collections.abc import Sequence

from launch.cloud.commands import Shell
from launch.cloud.tpu import PROJECT
from pipeline.errors import UserError

TRAIN_CONTAINER = "launch/cloud/Dockerfile"
WORKER_CONTAINER = "launch/dataflow/Dockerfile"
_BUILD = "launch/cloud/cloudbuild.yaml"


def build(
    shell: Shell,
    container: str,
    image: str,
    builder: str,
    project: str | None,
    flags: Sequence[str],
) -> None:
    """Builds a container from this project, and puts it where the cloud finds it.

    Args:
      shell: runs or prints the commands.
      container: its Dockerfile, from the root of the project.
      image: what it is called, with its registry.
      builder: `cloud`, for Cloud Build, or `docker`, for this machine.
      project: of the cloud; that of gcloud's configuration if None.
      flags: further ones of `gcloud builds submit`, or of `docker build`.

    Raises:
      CloudError: if that fails.
      UserError: if this is not the project's source.
    """
    for file in ("pyproject.toml", container, _BUILD):
        if not (PROJECT / file).exists():
            raise UserError(f"{PROJECT} lacks {file}: build in a checkout of PodGCM")
    if builder == "cloud":
        values = f"--substitutions=_FILE={container},_IMAGE={image}"
        commands = [
            [
                *("gcloud", "builds", "submit", str(PROJECT)),
                *(f"--config={PROJECT / _BUILD}", values, *_project(project)),
                *flags,
            ]
        ]
    else:
        file = PROJECT / container
        commands = [
            [
                *("docker", "build", f"--file={file}", f"--tag={image}", *flags),
                str(PROJECT),
            ],
            ["docker", "push", image],
        ]
    for command in commands:
        shell.run(command)


def preprocess(
    arguments: Sequence[str],
    *,
    name: str,
    project: str,
    region: str,
    bucket: str,
    image: str,
    workers: int,
    machine_type: str,
    flags: Sequence[str] = (),
) -> list[str]:
    """The command that preprocesses on Dataflow.

    Args:
      arguments: of `podgcm preprocess`: source, grid, output and so on.
      name: of the Dataflow jobs.
      project: of the cloud.
      region: such as `us-central1`.
      bucket: folder for temporary files, such as gs://BUCKET/dataflow.
      image: of the workers, built with launch/dataflow/Dockerfile.
      workers: at most so many.
      machine_type: of a worker.
      flags: further ones of Beam.

    Raises:
      UserError: if workers could not reach the store or the temporary files.
    """
    output = next((a for a in arguments if a.startswith("--output=")), "")
    if not output.startswith("--output=gs://"):
        raise UserError("after the lone --, write --output=gs://BUCKET/STORE")
    if not bucket.startswith("gs://"):
        raise UserError(f"--bucket={bucket}: write gs://BUCKET/FOLDER")
    if any(a.startswith("--runner") for a in arguments):
        raise UserError("--runner is DataflowRunner here: leave it out")
    return [
        *("podgcm", "preprocess", *arguments, "--runner=DataflowRunner", "--"),
        *(f"--project={project}", f"--region={region}", f"--job_name={name}"),
        *(f"--temp_location={bucket}/temp", f"--staging_location={bucket}/staging"),
        *(f"--sdk_container_image={image}", "--sdk_location=container"),
        *(f"--machine_type={machine_type}", "--number_of_worker_harness_threads=2"),
        f"--max_num_workers={workers}",
        *flags,
    ]


def list_jobs(shell: Shell, name: str, region: str, project: str | None) -> list[dict]:
    """The jobs of this name that are not over; none in a dry run.

    Raises:
      CloudError: if the cloud cannot be asked.
    """
    text = shell.run(
        [
            *("gcloud", "dataflow", "jobs", "list", "--status=active"),
            *(f"--filter=name={name}", f"--region={region}", *_project(project)),
            "--format=json(id,name,state,creationTime)",
        ],
        tries=3,
    )
    return json.loads(text or "[]")


def cancel(shell: Shell, name: str, region: str, project: str | None) -> None:
    """Cancels them; finished shards stay.

    Raises:
      CloudError: if that fails.
    """
    jobs = list_jobs(shell, name, region, project)
    if shell.dry_run:
        shell.note("for each of them")
        jobs = [{"id": "JOB"}]
    for job in jobs:
        shell.run(
            [
                *("gcloud", "dataflow", "jobs", "cancel", job["id"]),
                *(f"--region={region}", *_project(project), "--quiet"),
            ],
            tries=3,
        )


def _project(project: str | None) -> list[str]:
    return [f"--project={project}"] if project else []
