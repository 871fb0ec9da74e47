"""From ERA5 fields to a regridded, sharded Zarr store, on Apache Beam.

Read in this order: `variables` (what may be in a store), `source` (where it comes
from), `regrid` (how it gets onto a Gaussian grid), `plan` and `store` (where it
goes), `shards` (the work on one piece), `statistics`, and `preprocess`, which ties
them together. `inspect` looks at the result.
"""
