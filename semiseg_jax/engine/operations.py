"""What a traced program computes, whatever its compiler makes of it: those for GPUs do not count their libraries."""

from collections.abc import Iterator
from typing import Any

from semiseg_jax.models.summary import multiply_adds


def products(jaxpr: Any) -> tuple[float, float]:
    """-> (operations of all convolutions and matrix products, bytes that these read and write).

    A multiplication and an addition are two operations. Loops with a known length count as often as they run, others
    once, and of branches all.

    >>> import jax, jax.numpy as jnp
    >>> a = jnp.ones((2, 3))
    >>> products(jax.make_jaxpr(lambda a: a @ a.T)(a).jaxpr)  # 2x2 sums of three products
    (24.0, 64.0)
    """
    operations = moved = 0.0
    for equation, times in _equations(jaxpr, 1):
        work = multiply_adds(equation)
        if work:
            operations += 2.0 * times * work
            arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
            moved += times * sum(float(array.size * array.dtype.itemsize) for array in arrays)
    return operations, moved


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """All equations, those of inner functions and loops too, and how often each runs."""
    for equation in jaxpr.eqns:
        repeated = times * int(equation.params.get("length") or 1) if equation.primitive.name == "scan" else times
        inner = list(_inner(equation.params.values()))
        for function in inner:
            yield from _equations(function, repeated)
        if not inner:
            yield equation, times


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner(value)
        elif hasattr(getattr(value, "jaxpr", value), "eqns"):
            yield getattr(value, "jaxpr", value)
