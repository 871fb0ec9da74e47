"""Compiling without JAX's persistent cache, where the compiler is what is looked at."""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental import compilation_cache


@contextlib.contextmanager
def compile_anew() -> Iterator[None]:
    """Programs are neither read from JAX's persistent cache nor written to it.

    Their seconds would be those of a file; and those for TPUs that are not there cannot
    be read again.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    # JAX decides once, at the first compilation, whether there is a cache.
    compilation_cache.compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.compilation_cache.reset_cache()
