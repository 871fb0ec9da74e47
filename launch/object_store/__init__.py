"""A stand-in for Google Cloud Storage, for tests and benchmarks without a cloud.

A real HTTP server with the part of the GCS JSON API [1] that three clients use: the
driver `gcs` of TensorStore, gcsfs (behind `etils.epath`, and so Orbax) and
google-cloud-storage (Orbax, TensorBoard events). Those are reads of objects and of
ranges, their metadata, uploads in one request, in two parts or resumable, moves,
deletion, and lists with prefixes, all with generations. Every bucket exists and has no
folders, objects live in memory. Latency and failures can be injected, and requests and
bytes are counted.

    with ObjectStore(latency=0.03, failure_rate=0.1) as store:
        subprocess.run(command, env={**os.environ, **store.environment}, check=True)
        print(store.statistics())

It also runs as a process of its own, which costs the measured one no time, and prints
its address as its first line:

    python -m launch.object_store --port=0 --folder=stores --latency=0.03

GET /statistics then gives `Statistics` as JSON. POST /settings takes a JSON object
that may hold `latency`, `failure_rate`, and `reset`: true, to count from 0 again.

A process finds the store through environment variables, `environment`. Start it with
them: what is open keeps its server, TensorStore looks for credentials only once, and
gcsfs reads its settings when it is imported.

[1] https://cloud.google.com/storage/docs/json_api/v1
"""

from launch.object_store.server import ObjectStore, Statistics, environment

__all__ = ["ObjectStore", "Statistics", "environment"]
