"""Operations of traced programs, by hand numbers."""

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.engine.operations import products

IMAGE, KERNEL = jnp.ones((1, 8, 8, 3)), jnp.ones((2, 2, 3, 5))


def convolve(image, kernel):
    return lax.conv_general_dilated(image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operations(function, *arrays):
    return products(jax.make_jaxpr(function)(*arrays).jaxpr)[0]


def test_a_convolution_and_each_of_its_gradients_are_the_same_work():
    once = 2 * 4 * 4 * 5 * (2 * 2 * 3)
    assert operations(convolve, IMAGE, KERNEL) == once
    _, pull = jax.vjp(convolve, IMAGE, KERNEL)
    assert operations(pull, jnp.ones((1, 4, 4, 5))) == 2 * once


def test_a_loop_counts_as_often_as_it_runs_and_inner_functions_once():
    matrix = jnp.ones((4, 4))

    def loop(x):
        return lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, matrix), None), x, length=3)[0]

    assert operations(loop, matrix) == 3 * 2 * 4 * 4 * 4


def test_bytes_are_those_of_operands_and_results():
    assert products(jax.make_jaxpr(convolve)(IMAGE, KERNEL).jaxpr)[1] == 4 * (8 * 8 * 3 + 2 * 2 * 3 * 5 + 4 * 4 * 5)
