"""A published NeuralGCM checkpoint: arrays and texts from a pickle, and nothing else.

A pickle is a program. This one may build arrays and containers; whatever else it asks
for is refused by name before it is called.
"""

import collections
import dataclasses
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
    """What is in a checkpoint.

    Attributes:
      parameters: arrays by path of their module and own name.
      config: the model's configuration, a gin text with every value that is in use.
      statics: constant fields by name, [longitude, latitude], latitudes from south to
        north, and `longitude` and `latitude` in degrees.
    """

    parameters: dict[str, np.ndarray]
    config: str
    statics: dict[str, np.ndarray]


def read_published(path: str | pathlib.Path) -> Published:
    """Reads a checkpoint.

    Raises:
      UserError: if it is no such file, or asks for more than arrays and containers.
    """
    content = read_pickle(path)
    try:
        parameters = {
            f"{module}/{name}": np.asarray(array)
            for module, arrays in content["params"].items()
            for name, array in arrays.items()
        }
        dataset = content["aux_ds_dict"]
        fields = {**dataset["coords"], **dataset["data_vars"]}
        statics = {name: np.asarray(field["data"]) for name, field in fields.items()}
        return Published(parameters, content["model_config_str"], statics)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no NeuralGCM checkpoint: it lacks {error}; one has params, "
            "aux_ds_dict and model_config_str"
        ) from error


def read_pickle(path: str | pathlib.Path) -> Any:
    """Whatever a pickle of arrays and containers holds.

    Raises:
      UserError: if it is no pickle, or asks for more than arrays and containers.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, str(path)).load()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except UserError:
        raise
    except Exception as error:  # of any kind, for a damaged pickle
        raise UserError(
            f"{path} is no NeuralGCM checkpoint: {type(error).__name__}: {error}"
        ) from error


def _jax_array(build: Callable, args: tuple, state: Any, aval: Any) -> np.ndarray:
    """A JAX array as a NumPy array; what JAX knew of it beyond that is left out."""
    array = build(*args)
    array.__setstate__(state)
    return array


_ADMITTED: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    """Builds arrays and containers only."""

    def __init__(self, file: Any, path: str) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Callable:
        module = module.replace("numpy.core.", "numpy._core.")  # of NumPy before 2
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise UserError(
                f"{self._path} asks for {module}.{name}, which is neither an array nor "
                "a container; nothing of it was run. Do not trust this file"
            ) from None
