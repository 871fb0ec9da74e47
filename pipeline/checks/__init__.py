"""Faults of fields: of their values, against the time before, against physics.

Every function is pure and returns findings, one line each; none means sound. Fields
are [level, latitude, longitude] (length 1 for an axis that a variable does not have),
latitudes in degrees are symmetric about the equator and run either way, longitudes are
equally spaced eastward around the globe. NaN is undefined and does not count.
"""
