"""Where a forecast's initial states are read from."""

import numpy as np
from ml_collections import ConfigDict

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.plan import PLAN_FILE
from pipeline.store import Store, open_store
from train.data import check_store
from train.forecast.request import Request, parse_init


def open_initial(request: Request, config: ConfigDict) -> Store:
    """The store of the initial states.

    Raw fields (whatever `podgcm preprocess` takes) are regridded first, at the initial
    times alone and as the run's own data were, into a store beside the output,
    `OUTPUT.initial`.

    Raises:
      UserError: if there is none, or it lacks something.
    """
    path = request.store or config.data.store
    if not path:
        raise UserError(f"{request.workdir} was imported, without data: give --store")
    if request.store and not Folder(path).exists(PLAN_FILE):
        path = _regridded(request, config)
    store = open_store(path)
    check_store(store)
    return store


def _regridded(request: Request, config: ConfigDict) -> str:
    from pipeline.preprocess import preprocess  # Beam takes seconds to import

    grid, same = config.data.grid, {}
    if config.data.store:
        trained = open_store(config.data.store)
        grid = str(trained.grid)
        same = {
            "levels": ",".join(f"{level:g}" for level in trained.levels),
            "edges": trained.plan.edges,
            "forcing_shift": trained.plan.forcing_shift_hours,
        }
    if not grid:
        raise UserError(
            f"{request.workdir} does not tell its grid: preprocess {request.store} "
            "first"
        )
    times = parse_init(request.init).astype("datetime64[h]")
    span = f"{times.min()}/{times.max()}"
    if len(times) > 1:
        step = np.gcd.reduce(np.diff(np.sort(times)).astype(int))
        span += f"/{step}h"
        between = np.setdiff1d(np.arange(times.min(), times.max(), step), times)
        if between.size:
            same["skip_times"] = ",".join(map(str, between))
    output = f"{request.output}.initial"
    preprocess(request.store, output, grid, times=span, **same)
    return output
