"""Reading a configuration file and overriding it from the command line."""

import ast
import difflib
import importlib.util
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import base
from pipeline.errors import UserError

# What a run's `config.json` says beside its configuration.
NO_CONFIGURATION = {"data_fingerprint", "imported_from"}


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration of a Python file with `get_config()`, or of a JSON file.

    Args:
      path: `configs/demo.py`, or the `config.json` of a run.
      overrides: `a.b=value`; values as in Python or JSON, bare words are strings.

    Raises:
      UserError: if the file is no configuration, or an override names an unknown
        key or has another type than the default.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"there is no configuration file {path}")
    if file.suffix == ".json":
        config = from_json(file.read_text(), path)
    else:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # of any kind: it is a program
            raise UserError(
                f"{path} cannot be run: {type(error).__name__}: {error}"
            ) from error
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} has no function get_config()")
        config = module.get_config()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--{override} has no value: write --{override}=VALUE")
        _set(config, key, text)
    return config.lock()


def from_json(text: str, path: str) -> ConfigDict:
    """The configuration in the `config.json` of a run.

    A run may be older than an option: then it has the default.

    Args:
      text: of the file.
      path: how it is called in errors.

    Raises:
      UserError: if it is no configuration.
    """
    config = base.get_config()
    known = dict(leaves(config))
    try:
        content = json.loads(text)
        for name in NO_CONFIGURATION & content.keys():
            del content[name]
        for key, _ in leaves(ConfigDict(content)):
            if key not in known:
                raise UserError(f"{path} has an unknown configuration key {key!r}")
        config.update(_tuples(content))
    except (ValueError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [""]
        raise UserError(f"{path} is no configuration: {lines[0]}") from error
    return config


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(x) for x in value)
    if isinstance(value, dict):
        return {name: _tuples(x) for name, x in value.items()}
    return value


def _set(config: ConfigDict, key: str, text: str) -> None:
    known = dict(leaves(config))
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0)
        raise UserError(
            f"unknown configuration key {key!r}: did you mean {close[0]!r}?"
        )
    default = known[key]
    value = _parse(text, default)
    if value is None:
        raise UserError(
            f"{key}={text}: expected {type(default).__name__}, such as {default!r}"
        )
    node = config
    *parents, name = key.split(".")
    for parent in parents:
        node = node[parent]
    node[name] = value


def _parse(text: str, default: Any) -> Any:
    """`text` as a value of the type of `default`, or None."""
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
        value = list(value) if isinstance(value, tuple) else value
    if isinstance(default, tuple):
        if not isinstance(value, list):
            return None
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    return value if type(value) is type(default) else None


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Nested dict as JSON holds it (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))
