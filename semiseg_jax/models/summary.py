"""What a network costs, before it is trained: parameters, multiply-adds and memory, stage by stage."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.ops.convolution import convolution_form

# Copies of the parameters that an optimiser keeps.
SLOTS = {"adamw": 2, "sgd": 1}


@dataclasses.dataclass
class Row:
    """One stage of a network."""

    name: str
    output: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: int = 0
    activation_bytes: int = 0  # of the outputs of its convolutions and products


@dataclasses.dataclass(frozen=True)
class Summary:
    """Costs of one forward pass over a batch; print it for a table."""

    rows: tuple[Row, ...]
    inputs: tuple[tuple[int, ...], ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        return sum(row.activation_bytes for row in self.rows)

    def training_bytes(self, optimizer: str = "adamw", *, ema: bool = False) -> int:
        """An estimate of a train step: parameters, gradients, optimiser and average, and what the gradient needs.

        That is the output of each convolution and what norm and activation make of it, which the next one reads.
        """
        copies = 2 + SLOTS[optimizer] + int(ema)
        return 4 * copies * self.parameters + 2 * self.activation_bytes

    def __str__(self) -> str:
        lines = [f"{'stage':<24}{'output':>20}{'parameters':>14}{'multiply-adds':>16}{'activations':>14}"]
        for row in self.rows:
            output = "x".join(map(str, row.output))
            lines.append(
                f"{row.name:<24}{output:>20}{row.parameters:>14,}{_giga(row.multiply_adds):>16}"
                f"{_mebi(row.activation_bytes):>14}"
            )
        lines.append(
            f"{'total':<44}{self.parameters:>14,}{_giga(self.multiply_adds):>16}{_mebi(self.activation_bytes):>14}"
        )
        return "\n".join(lines)


def summary(model: nn.Module, *inputs: Any) -> Summary:
    """Costs of `model` over `inputs`, which are arrays or shapes.

    >>> from semiseg_jax.models import Discriminator
    >>> summary(Discriminator(), (1, 321, 321, 21)).parameters
    2783169
    """
    arrays = [jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x for x in inputs]
    variables = jax.eval_shape(model.init, jax.random.key(0), *arrays)
    with convolution_form("library"):  # every convolution is one operation
        closed = jax.make_jaxpr(model.apply)(variables, *arrays)
    rows: dict[str, Row] = {}
    for scope, equation, turns in _equations(closed.jaxpr, ""):
        name = _stage(scope)
        work = turns * multiply_adds(equation)
        if not name:
            continue
        row = rows.setdefault(name, Row(name))
        result = equation.outvars[0].aval
        if len(result.shape) in (2, 4) and result.shape[0] == arrays[0].shape[0]:
            row.output = tuple(result.shape)
        if work:
            row.multiply_adds += work
            row.activation_bytes += result.size * result.dtype.itemsize
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name = _stage("/".join(key.key for key in path[:-1]))
        rows.setdefault(name, Row(name)).parameters += leaf.size
    return Summary(tuple(rows.values()), tuple(tuple(x.shape) for x in arrays))


def operations(function: Callable[..., Any], *inputs: Any) -> int:
    """Floating-point operations of a call on all devices: twice the multiply-adds of its convolutions and products.

    What is computed a second time to save memory does not count again, as in a model's FLOP utilisation.

    >>> operations(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    closed = jax.make_jaxpr(function)(*inputs)
    found = _equations(closed.jaxpr, "")
    return sum(2 * turns * multiply_adds(equation) for scope, equation, turns in found if _AGAIN not in scope)


def _equations(jaxpr: Any, scope: str, turns: int = 1) -> Iterator[tuple[str, Any, int]]:
    """All equations with the names of the modules around them, and how often they run: in a loop, on each device."""
    for equation in jaxpr.eqns:
        inner_scope = f"{scope}/{equation.source_info.name_stack}"
        inner = [value for value in equation.params.values() if hasattr(getattr(value, "jaxpr", value), "eqns")]
        if inner:
            yield from _equations(getattr(inner[0], "jaxpr", inner[0]), inner_scope, turns * _turns(equation))
        else:
            yield inner_scope, equation, turns


def _turns(equation: Any) -> int:
    """How often the program within an equation runs, once for each device."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":
        return equation.params["mesh"].size
    return equation.params.get("global_axis_size", 1)  # of pmap


def _stage(scope: str) -> str:
    """backbone/layer1_0/conv1 -> backbone/layer1; modules below the network itself by their own name."""
    modules = [part for part in scope.split("/") if re.fullmatch(r"[a-z][a-z0-9_]*", part) and part not in _NOT_MODULES]
    depth = 2 if modules[:1] == ["backbone"] else 1
    if len(modules) < depth:
        return ""
    return re.sub(r"(layer\d)_\d+$|_norm$", r"\1", "/".join(modules[:depth])).replace("/norm1", "/conv1")


# Parts of scopes that JAX adds.
_AGAIN = "rematted_computation"
_NOT_MODULES = ("jit", "checkpoint", _AGAIN)


def multiply_adds(equation: Any) -> int:
    """Of a convolution or a product; 0 of anything else."""
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        zeros = math.prod(equation.params["lhs_dilation"])  # are put between pixels, such as for gradients of strides
        return equation.outvars[0].aval.size * kernel.size // (features * zeros)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    return 0


def _giga(number: int) -> str:
    return f"{number / 1e9:.3f} G"


def _mebi(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"
