"""Pickles of others: arrays come in, programs do not."""

import collections
import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from launch.published import gin
from launch.published.checkpoint import read_published
from pipeline.errors import UserError


def test_arrays_of_a_real_checkpoint(toy):
    published = read_published(toy)
    assert sum(x.size for x in published.parameters.values()) == 191_174
    assert all(x.dtype == np.float32 for x in published.parameters.values())
    assert published.statics["geopotential_at_surface"].shape == (128, 64)
    assert len(published.statics["latitude"]) == 64


def test_every_value_of_a_real_configuration(toy):
    config = gin.parse(read_published(toy).config)
    assert config.get("CoordinateSystem.horizontal") == "@GridTL63()"
    assert config.get("EpdTower.latent_size") == 32
    assert config.get("advance/InverseLevelScale.scales")[-1] == 1.792
    assert config.get("decoder/InverseShiftAndNormalize.scales")["tracers"] == {
        "specific_cloud_ice_water_content": 6.483e-06,
        "specific_cloud_liquid_water_content": 1.706e-05,
        "specific_humidity": 0.003474,
    }
    assert config.get("dycore/SequentialStepFilter.filter_modules") == (
        "@dycore/ExponentialFilter",
        "@stability/ExponentialFilter",
    )
    assert "EpdTower.latent_size" not in config.unseen()
    assert "LATENT_SIZE" not in config.unseen()
    assert "EpdTower.num_process_blocks" in config.unseen()


class Command:
    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_a_command_runs_nothing(tmp_path, protocol):
    command = Command()
    command.target = tmp_path / "was-here"
    content = {"params": {"a": {"w": command}}, "aux_ds_dict": {}}
    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=r"asks for \w+.system, which is neither"):
        read_published(file)
    assert not command.target.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "numpy.load"])
def test_nothing_else_is_admitted(tmp_path, name):
    module, _, function = name.rpartition(".")
    file = tmp_path / "bad.pkl"
    file.write_bytes(f"c{module}\n{function}\n(S'1+1'\ntR.".encode())
    with pytest.raises(UserError, match=f"asks for {name}"):
        read_published(file)


class Forged:
    """A dtype of objects that claims to hold none: bytes would become pointers."""

    def __reduce__(self):
        state = (3, "|", None, None, None, -1, -1, 0)
        return np.dtype, ("O8", False, True), state


class Array:
    def __reduce__(self):
        state = (1, (1,), Forged(), False, b"\x41" * 8)
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state


def test_bytes_become_no_pointers(tmp_path):
    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps({"params": {"a": {"w": Array()}}}))
    with pytest.raises(UserError, match="arrays of 'O8' are not read"):
        read_published(file)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["b1", "<i4", ">i8", "u2", "<f4", ">f8"])
def test_arrays_come_in_whole(tmp_path, kind, protocol):
    values = (np.arange(24).reshape(2, 3, 4) % 2).astype(kind)
    arrays = {"c": values, "f": np.asfortranarray(values), "s": values[1, 2, 3]}
    content = {
        "params": {"a": arrays},
        "aux_ds_dict": {"coords": {}, "data_vars": {}},
        "model_config_str": "",
    }
    file = tmp_path / "good.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    found = read_published(file).parameters
    for name, expected in arrays.items():
        assert found[f"a/{name}"].dtype == expected.dtype
        np.testing.assert_array_equal(found[f"a/{name}"], expected)


def test_containers_and_arrays_are_admitted(tmp_path):
    content = {
        "params": collections.OrderedDict(
            module={"numpy": np.arange(3.0), "jax": jnp.ones((2, 2), jnp.float32)}
        ),
        "aux_ds_dict": {
            "coords": {"latitude": {"data": [-45.0, 45.0]}},
            "data_vars": {"land_sea_mask": {"data": np.zeros((4, 2))}},
        },
        "model_config_str": "A = 1\n",
    }
    file = tmp_path / "good.pkl"
    file.write_bytes(pickle.dumps(content))
    published = read_published(file)
    np.testing.assert_array_equal(published.parameters["module/jax"], np.ones((2, 2)))
    assert isinstance(published.parameters["module/jax"], np.ndarray)
    assert published.statics["land_sea_mask"].shape == (4, 2)


def test_what_is_no_checkpoint_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_published(tmp_path / "none.pkl")
    for content in (b"", b"\x80", pickle.dumps([1]), pickle.dumps({"params": {}})):
        file = tmp_path / "no.pkl"
        file.write_bytes(content)
        with pytest.raises(UserError, match="is no NeuralGCM checkpoint"):
            read_published(file)


def test_texts_that_are_no_configuration():
    for text in ("import os", "a.b = open('x')", "a = 1 +", "a = f()"):
        with pytest.raises(UserError):
            gin.parse(text)
    with pytest.raises(UserError, match="lacks nothing.there"):
        gin.parse("a = 1").get("nothing.there")


def test_quotes_keep_what_looks_like_a_reference():
    config = gin.parse("A = 'me@home 5%'\nb/C.d = \\\n    (%A,\n     @e/f())\n")
    assert config.get("b/C.d") == ("me@home 5%", "@e/f()")
