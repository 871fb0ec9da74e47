"""The paper's configurations: their numbers of parameters, and what they equal."""

import json

import pytest

from launch.cli import main
from launch.published.gin import parse
from launch.published.options import model_config
from tests.launch.papers_config import paper_config
from train.config import load_config, to_json

# Facts of the paper's models; a third party counted the same totals.
PARTS = {
    "tl63": {
        "physics": 3_939_072,
        "encoder": 3_435_264,
        "memory_encoder": 3_435_264,
        "decoder": 3_357_696,
        "convolution": 74_848,
        "surface": 1_352,
        "positional": 262_144,
        "orography": 12_540,
    },
    "tl127": {
        "physics": 3_948_288,
        "encoder": 3_444_480,
        "memory_encoder": 3_444_480,
        "decoder": 3_170_688,
        "convolution": 74_848,
        "surface": 448,
        "positional": 4_194_304,
        "orography": 66_044,
    },
    "tl255": {
        "physics": 3_948_288,
        "encoder": 3_444_480,
        "memory_encoder": 3_444_480,
        "decoder": 3_170_688,
        "convolution": 74_848,
        "surface": 448,
        "positional": 16_777_216,
        "orography": 263_164,
    },
    "tl127_ens": {
        "physics": 3_844_224,
        "encoder": 3_439_104,
        "decoder": 3_357_696,
        "convolution": 74_848,
        "surface": 1_352,
        "positional": 786_432,
        "orography": 16_127,
        "noise": 40,
    },
}
TOTALS = {
    "tl63": 14_518_180,
    "tl127": 18_343_580,
    "tl255": 31_123_612,
    "tl127_ens": 11_519_823,
}
PUBLISHED = {
    "tl63": "deterministic_2_8_deg",
    "tl127": "deterministic_1_4_deg",
    "tl255": "deterministic_0_7_deg",
    "tl127_ens": "stochastic_1_4_deg",
}


@pytest.mark.parametrize("name", PARTS)
def test_parameters_by_part(name, capsys):
    arguments = ["inspect", f"--config=configs/{name}.py", "--parameters", "--json"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    counted = json.loads(capsys.readouterr().out)
    assert counted == {"total": TOTALS[name], "parts": PARTS[name]}


@pytest.mark.parametrize("name", PARTS)
def test_models_are_those_of_the_published_configurations(name):
    pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    published = model_config(parse(paper_config(PUBLISHED[name])))
    ours = to_json(load_config(f"configs/{name}.py"))["model"]
    theirs = to_json(published)["model"]
    assert published.data.grid == load_config(f"configs/{name}.py").data.grid
    # Ours begin without the quirks of what is published.
    assert theirs.pop("as_published") and not ours.pop("as_published")
    assert theirs.pop("geopotential_interpolation") == "sigma"
    assert ours.pop("geopotential_interpolation") == "log_sigma"
    for model in (ours, theirs):
        model["encoder_filters"].sort()
        model["decoder_fields"].sort()
        model["learned_orography"].sort()
    assert ours.pop("orography_scale") == pytest.approx(theirs.pop("orography_scale"))
    assert ours == theirs


def test_options_that_are_not_known_are_refused_by_name(monkeypatch):
    from pipeline.errors import UserError

    pytest.importorskip("neuralgcm", reason="needs the extra `judges`")
    text = paper_config("stochastic_1_4_deg")
    for change, name in [
        ("\nadvance/SoftClip.max_value = 8\n", "advance/SoftClip.max_value = 8"),
        ("\nDycore.new_option = True\n", "Dycore.new_option"),
        ("\nCoordinateSystem.horizontal = @GridT42()\n", "CoordinateSystem.horizontal"),
        (
            "\nDivCurlNeuralParameterization.nodal_mapping_module = @Other\n",
            "DivCurlNeuralParameterization.nodal_mapping_module",
        ),
    ]:
        with pytest.raises(UserError, match=name):
            model_config(parse(text + change))
