"""A `jit` that compiles in half the time and runs slower, for tests of what a program computes and not how.

Not inside of another `jit`.
"""

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS)
