"""Associated Legendre functions, orthonormal on [-1, 1]."""

import numpy as np


def recurrence_coefficients(truncation: int) -> np.ndarray:
    """eps[m, l] = sqrt((l^2 - m^2) / (4 l^2 - 1)), and 0 for l <= m.

    Returns float64 [truncation + 1, truncation + 3]; l goes to truncation + 2 so
    that eps[:, l + 1] exists for every l in use.
    """
    m = np.arange(truncation + 1)[:, None]
    l = np.arange(truncation + 3)[None, :]  # noqa: E741
    return np.sqrt(np.maximum(l**2 - m**2, 0) / (4.0 * l**2 - 1 + 2 * (l == 0)))


def associated_legendre(truncation: int, sin_latitude: np.ndarray) -> np.ndarray:
    """P[m, l, latitude] for 0 <= m <= truncation and m <= l <= truncation + 1.

    Seeded with P_m^m = -sqrt(1 + 1/(2m)) cos(lat) P_{m-1}^{m-1} and continued by
    eps_l P_l = mu P_{l-1} - eps_{l-1} P_{l-2}; entries with l < m are 0. In float64
    the recursion only underflows to 0 near the poles up to a few hundred waves.
    """
    mu = np.asarray(sin_latitude, np.float64)
    cos_latitude = np.sqrt(1 - mu**2)
    eps = recurrence_coefficients(truncation)
    table = np.zeros((truncation + 1, truncation + 2, len(mu)))
    seed = np.full_like(mu, np.sqrt(0.5))
    for m in range(truncation + 1):
        if m > 0:
            seed = -np.sqrt(1 + 0.5 / m) * cos_latitude * seed
        table[m, m] = seed
        for l in range(m + 1, truncation + 2):  # noqa: E741
            below = eps[m, l - 1] * table[m, l - 2] if l > m + 1 else 0.0
            table[m, l] = (mu * table[m, l - 1] - below) / eps[m, l]
    return table


def slopes(table: np.ndarray) -> np.ndarray:
    """cos(latitude) dP/dlatitude of a table of `associated_legendre`, its shape.

    (l + 1) eps_l P_(l-1) - l eps_(l+1) P_(l+1); the last l lacks what lies beyond.
    """
    rows = table.shape[1]
    eps = recurrence_coefficients(len(table) - 1)
    l = np.arange(rows)[:, None]  # noqa: E741
    zero = np.zeros_like(table[:, :1])
    below = np.concatenate([zero, table[:, :-1]], axis=1)
    above = np.concatenate([table[:, 1:], zero], axis=1)
    return (l + 1) * eps[:, :rows, None] * below - l * eps[:, 1:, None] * above
