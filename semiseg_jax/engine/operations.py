"""What a traced program computes, whatever its compiler makes of it: those for GPUs do not count their libraries."""

import math
from collections.abc import Iterator
from typing import Any


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


def multiply_adds(equation: Any) -> int:
    """Of a convolution or a matrix product; 0 of anything else."""
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a stride spreads its input with zeros, which are no work.
        spread = math.prod(equation.params["lhs_dilation"])
        return equation.outvars[0].aval.size * (kernel.size // features) // spread
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    return 0
