"""The benchmarks: `podgcm bench NAME`.

Each module has `SUMMARY`, `add_arguments(parser)` and `run(args)`, which returns the
figures as a dict.
"""

NAMES = ("baroclinic_wave", "held_suarez", "dycore")
