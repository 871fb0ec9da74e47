"""Commands of `podgcm`, a module each.

`add_arguments(parser)` adds its flags; `run(args)` does it, and returns the exit code
if that may be another than 0. Modules import what they run when it runs.
"""
