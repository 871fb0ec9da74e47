"""The networks' parts against those of the official package, with equal parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.physics.convolution import VerticalConvolution
from model.physics.surface import Constant, SurfaceEmbedding
from model.physics.towers import Mlp, Tower

haiku = pytest.importorskip("haiku", reason="needs the extra `judges`")
layers = pytest.importorskip("neuralgcm.legacy.layers")
towers = pytest.importorskip("neuralgcm.legacy.towers")

COLUMNS = (6, 4)
gelu = jax.nn.gelu


def randomised(module: nnx.Module, seed: int = 0) -> nnx.Module:
    """The same with parameters of order one; biases too."""
    structure, parameters = nnx.split(module)
    leaves, tree = jax.tree.flatten(parameters)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        0.3 * jax.random.normal(key, x.shape, x.dtype)
        for key, x in zip(keys, leaves, strict=True)
    ]
    return nnx.merge(structure, tree.unflatten(drawn))


def of_linear(linear: nnx.Linear) -> dict[str, jax.Array]:
    found = {"w": linear.kernel[...]}
    return found | ({"b": linear.bias[...]} if linear.bias is not None else {})


def run(function, parameters: dict, x: jax.Array) -> jax.Array:
    """Applies haiku modules, all of whose parameters must be given, and used."""
    net = haiku.without_apply_rng(haiku.transform(function))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    assert jax.tree.structure(shapes) == jax.tree.structure(parameters)
    for (path, wanted), given in zip(
        jax.tree.leaves_with_path(shapes), jax.tree.leaves(parameters), strict=True
    ):
        assert wanted.shape == given.shape, path
    return net.apply(parameters, x)


def mlp(hidden: int, width: int, bias: bool):
    return lambda size: layers.MlpUniform(
        size, width, hidden, with_bias=bias, activation=gelu
    )


def column(net):
    return lambda size: towers.ColumnTower(size, column_net_factory=net)


def judge_tower(outputs: int, width: int, blocks: int, hidden: int, decoder: int):
    """An encode-process-decode tower of the official package."""
    return lambda x: towers.EpdTower(
        outputs,
        latent_size=width,
        num_process_blocks=blocks,
        encode_tower_factory=column(mlp(0, 0, True)),
        process_tower_factory=column(mlp(hidden, width, True)),
        decode_tower_factory=column(mlp(decoder, width, False)),
    )(x)


def parameters_of(tower: Tower, names: list[str]) -> dict:
    """Of our tower, under the judge's names, which are in the order of its calls."""
    count = tower.blocks.linears[0].kernel.shape[0]
    structure, stacked = nnx.split(tower.blocks)
    blocks = [
        nnx.merge(structure, jax.tree.map(lambda x, n=n: x[n], stacked))
        for n in range(count)
    ]
    linears = [tower.encode]
    linears += [linear for block in blocks for linear in block.linears]
    linears += list(tower.decode.linears)
    return {n: of_linear(x) for n, x in zip(names, linears, strict=True)}


def tower_names(blocks: int, hidden: int, decoder: int) -> list[str]:
    def mlps(tower: str, count: int) -> list[str]:
        return [f"{tower}/~/mlp_uniform/~/linear_{n}" for n in range(count)]

    names = mlps("epd_tower/column_tower", 1)
    for block in range(blocks):
        names += mlps(f"epd_tower/column_tower_{block + 1}", hidden + 1)
    return names + mlps(f"epd_tower/column_tower_{blocks + 1}", decoder + 1)


@pytest.mark.parametrize("decoder", [0, 1])
def test_tower(decoder):
    tower = randomised(
        Tower(5, 3, 8, blocks=2, layers=3, rngs=nnx.Rngs(0), decoder_layers=decoder)
    )
    x = jax.random.normal(jax.random.key(1), (5, *COLUMNS), jnp.float32)
    parameters = parameters_of(tower, tower_names(2, 3, decoder))
    expected = run(judge_tower(3, 8, 2, 3, decoder), parameters, x)
    np.testing.assert_allclose(tower(x), expected, rtol=1e-5, atol=1e-5)


def test_vertical_convolution():
    ours = randomised(VerticalConvolution(3, 4, (8, 6), width=5, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (3, 12, *COLUMNS), jnp.float32)

    def judge(x):
        return towers.VerticalConvTower(
            4, channels=(8, 6), kernel_shape=5, activation=gelu
        )(x)

    names = ["conv_level", "conv_level_1", "conv_level_2"]
    parameters = {
        f"vertical_conv_tower/~/{name}": {
            "w": layer.kernel[...],
            "b": layer.bias[...][:, None],
        }
        for name, layer in zip(names, ours.layers, strict=True)
    }
    expected = run(judge, parameters, x)
    assert expected.shape == ours(x).shape == (4, 12, *COLUMNS)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_surface_is_blended_by_shares():
    embedding = randomised(SurfaceEmbedding(4, 8, 8, constant=False, rngs=nnx.Rngs(0)))
    key = jax.random.split(jax.random.key(2), 3)
    temperature = jax.random.normal(key[0], COLUMNS)
    air = jax.random.normal(key[1], (4, *COLUMNS))
    cover = jax.random.normal(key[2], COLUMNS)
    zero, one = jnp.zeros(COLUMNS), jnp.ones(COLUMNS)
    with_ice = jnp.concatenate([air, cover[None]])
    sea = embedding.sea(temperature[None])
    for ice, land, expected in [
        (zero, zero, sea),
        (zero, one, embedding.land(air)),
        (one, zero, embedding.ice(with_ice)),
        (one, one, embedding.land(air)),
        (
            one / 2,
            one / 4,
            embedding.land(air) / 4 + (embedding.ice(with_ice) + sea) * 3 / 8,
        ),
    ]:
        got = embedding(temperature, air, cover, ice, land)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_constant_surfaces_look_at_no_air():
    embedding = SurfaceEmbedding(4, 8, 8, constant=True, rngs=nnx.Rngs(0))
    assert isinstance(embedding.land, Constant)
    count = sum(x.size for x in jax.tree.leaves(nnx.state(embedding)))
    assert count == 448  # as in the paper's models of 1.4 and 0.7 degrees
    whole = SurfaceEmbedding(4, 8, 8, constant=False, rngs=nnx.Rngs(0))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(whole)))
    assert count == 1352  # of 2.8 degrees, and the ensemble


def test_mlp_has_as_many_layers_as_sizes_say():
    net = Mlp([3, 5, 2], nnx.Rngs(0), use_bias=False)
    assert [x.kernel.shape for x in net.linears] == [(3, 5), (5, 2)]
    assert all(x.bias is None for x in net.linears)
