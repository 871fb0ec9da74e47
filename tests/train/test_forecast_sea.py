"""The sea of a forecast: as it was, as it is at first, or as it usually is."""

import numpy as np
import pytest

from pipeline.errors import UserError
from train.forecast.sea import Sea


def test_sea_of_the_dates(tiny_store):
    sea = Sea(tiny_store, "dates")
    starts = np.array([4, 8])
    sea.check(starts, 12)
    for lead, weight in ((0, 0.0), (6, 1.0), (3, 0.5)):
        now = sea.at(starts, lead)["sea_surface_temperature"]
        first, second = (
            tiny_store.read_many(
                {"sea_surface_temperature": (starts + i, slice(None))}, folded=True
            )["sea_surface_temperature"]
            for i in (0, 1)
        )
        expected = (1 - weight) * first + weight * second
        np.testing.assert_allclose(now, expected, rtol=1e-6)
    held = Sea(tiny_store, "held").at(starts, 600)["sea_surface_temperature"]
    assert np.array_equal(held, sea.at(starts, 0)["sea_surface_temperature"])
    with pytest.raises(UserError, match="ends at 2001-01-04T18.*--sea=held"):
        sea.check(starts, 240)
    with pytest.raises(UserError, match="lacks 361 of the 365 days"):
        Sea(tiny_store, "climatology")


class Years:
    """A store of a wave in time, every six hours of some years."""

    path, step = "years", np.timedelta64(6, "h")

    def __init__(self, first, last):
        start, end = (np.datetime64(t, "ns") for t in (first, last))
        self.times = np.arange(start, end, self.step.astype("timedelta64[ns]"))

    def read_many(self, requests, folded):
        (index, _), *_ = requests.values()
        year = self.times[index].astype("datetime64[Y]")
        day = (self.times[index] - year) / np.timedelta64(1, "D")
        wave = 280 + 10 * np.sin(2 * np.pi * day / 365) + 2.0 * (year.astype(int) % 2)
        return {
            n: np.full((len(index), 2, 3, 4), 1.0) * wave[:, None, None, None]
            for n in requests
        }


def test_sea_of_a_climatology():
    """The mean of two years, through leap days and turns of the year."""
    store = Years("2003-01-01", "2005-01-01")
    sea = Sea(store, "climatology")
    starts = np.array([100, 1000])
    sea.check(starts, 24 * 3650)
    days = np.arange(0, 800)
    found = np.stack([sea.at(starts, 24 * int(day))["sea_ice_cover"] for day in days])
    assert np.isfinite(found).all()
    for row, start in enumerate(starts):
        now = store.times[start] + days * np.timedelta64(1, "D")
        day = (now - now.astype("datetime64[Y]")) / np.timedelta64(1, "D")
        expected = 281 + 10 * np.sin(2 * np.pi * day / 365)
        # A day is averaged, and leap years are a day longer.
        np.testing.assert_allclose(found[:, row, 0, 0, 0], expected, atol=0.25)
    with pytest.raises(UserError, match="lacks 1 of the 365 days"):
        Sea(Years("2003-01-01", "2003-12-31"), "climatology")
