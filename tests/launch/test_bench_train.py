"""The benchmark of a training step: its parts, and what they add up to."""

import json

import jax
import pytest

from launch.benchmarks.train import by_part
from launch.cli import main
from launch.tpu.parts import PARTS
from train.config import to_json


@pytest.mark.drill
def test_parts_of_a_step(make_tiny_config, tmp_path, capsys):
    file = tmp_path / "config.json"
    config = make_tiny_config()
    config.train.steps = 1
    file.write_text(json.dumps(to_json(config)))
    with jax.enable_x64(False), pytest.raises(SystemExit) as end:
        main(["bench", "train", f"--config={file}", "--steps=2", "--json"])
    assert not end.value.code
    result = json.loads(capsys.readouterr().out)
    parts = result["parts"]
    assert set(PARTS) <= set(parts)
    for name in ("encode", "networks", "dycore", "decode", "loss"):
        assert parts[name]["forward"] > 0 and parts[name]["backward"] > 0, name
    assert parts["optimizer"]["forward"] > 0 == parts["optimizer"]["backward"]
    total = sum(sum(phases.values()) for phases in parts.values())
    assert total + result["waiting"] == pytest.approx(result["seconds"])


def test_operations_count_once_and_by_their_scope():
    text = """
  %dot.1 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(step)/dycore/dot_general"}
  ROOT %while.2 = (f32[2]) while(%x), metadata={op_name="jit(step)/dycore/while"}
  add.3 = f32[2] add(%c, %d), metadata={op_name="jit(step)/transpose(networks)/add"}
"""
    seconds = {"dot.1": 1.0, "while.2": 4.0, "add.3": 2.0, "copy.4": 0.5}
    assert by_part(seconds, text) == {
        "dycore": {"forward": 1.0, "recomputed": 0.0, "backward": 0.0},
        "networks": {"forward": 0.0, "recomputed": 0.0, "backward": 2.0},
        "other": {"forward": 0.5, "recomputed": 0.0, "backward": 0.0},
    }
