"""From ERA5 fields to a regridded, sharded Zarr store, on Apache Beam.

Read in this order: `variables` (what may be in a store); `source` with `formats`,
`axes` and `zarr_source` (where it comes from); `regrid` and `vertical` (how it gets
onto a Gaussian grid); `plan`, `layout`, `writer` and `files` (where it goes); `shards`
(the work on one piece) with `checks`, and `statistics`; `request` and `preprocess`,
which tie them together. `store` reads the result; `inspect` and `deep` look at it.
"""
