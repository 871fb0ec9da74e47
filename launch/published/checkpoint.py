"""A published NeuralGCM checkpoint: arrays and texts from a pickle, and nothing else.

A pickle is a program. This one may build arrays and containers; whatever else it asks
for is refused by name before it is called. Arrays are built here, of numbers alone:
what NumPy itself does with the state of a pickled dtype or array trusts its author.
"""

import collections
import dataclasses
import pathlib
import pickle
import re
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
        config = content["model_config_str"]
        if not isinstance(config, str):
            raise TypeError("a text model_config_str")
        return Published(parameters, config, statics)
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
            return _plain(_Unpickler(file, str(path)).load())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except UserError:
        raise
    except Exception as error:  # of any kind, for a damaged pickle
        raise UserError(
            f"{path} is no NeuralGCM checkpoint: {type(error).__name__}: {error}"
        ) from error


class _Kind:
    """In place of `numpy.dtype`: a kind of numbers."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch("b1|[iu][1248]|f[248]", name):
            raise pickle.UnpicklingError(f"arrays of {name!r} are not read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *_ = state
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """In place of `numpy.ndarray`: empty, until its state is set."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.array = _of_buffer(data, kind, shape, "F" if fortran else "C").array


def _of_buffer(data: Any, kind: _Kind, shape: tuple, order: str) -> _Array:
    new = _Array()
    new.array = np.frombuffer(data, kind.dtype).reshape(shape, order=order).copy(order)
    return new


def _scalar(kind: _Kind, data: bytes) -> _Array:
    return _of_buffer(data, kind, (), "C")


def _of_jax(build: Callable, args: tuple, state: tuple, aval: Any) -> _Array:
    """What JAX knew of its array beyond NumPy's is left out."""
    new = _Array()
    new.__setstate__(state)
    return new


_ADMITTED: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _of_buffer,
    ("jax._src.array", "_reconstruct_array"): _of_jax,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def _plain(value: Any) -> Any:
    """The same with NumPy's arrays in place of ours."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(x) for x in value)
    return value


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
