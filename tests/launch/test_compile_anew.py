"""What is compiled anew leaves JAX's persistent cache as it was."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import compilation_cache

from launch.compile_anew import compile_anew


@pytest.fixture
def cache(tmp_path):
    """A persistent cache of everything, however quickly it compiles."""
    changes = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in changes}

    def use(settings):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.compilation_cache.reset_cache()

    use(changes)
    yield tmp_path
    use(before)


def test_the_cache_is_not_used(cache):
    def compiled():
        def program(x):
            return jnp.sin(x) + 3

        jax.jit(program).lower(jax.ShapeDtypeStruct((7,), "float32")).compile()
        return sorted(x.name for x in cache.iterdir() if "program" in x.name)

    with compile_anew():
        assert not compiled()
    written = compiled()
    assert written
    with compile_anew():
        assert compiled() == written
