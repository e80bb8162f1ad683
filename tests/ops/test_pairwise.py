"""local_filter and potts_energy against sums over all pairs of pixels, and wrong calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import filtered, kernel_matrix, potts

from semiseg_jax.ops import local_filter, potts_energy
from semiseg_jax.ops.convolution import convolution_form

# shape of p, channels of the features of each term (0: no features), options
CASES = {
    "one term": ((2, 7, 9, 3), [3], {"radius": 2}),
    "one channel with position": ((1, 5, 7, 2), [1], {"radius": 3, "xy_sigma": 2.0}),
    "five channels with position": ((1, 9, 5, 4), [5], {"radius": 3, "xy_sigma": 1.5}),
    "position alone": ((2, 6, 5, 2), [0], {"radius": 2, "xy_sigma": 1.5, "weights": [0.7]}),
    "flat window": ((1, 5, 5, 1), [0], {"radius": 1}),
    "window larger than the image": ((2, 2, 3, 2), [1], {"radius": 4, "xy_sigma": 3.0}),
    "single row": ((1, 1, 9, 2), [3], {"radius": 2}),
    "single pixel": ((2, 1, 1, 3), [3], {"radius": 1}),
    "two terms": ((2, 5, 8, 2), [3, 0], {"radius": 3, "xy_sigma": [3.0, 1.5], "weights": [0.9, 0.4]}),
    "one bandwidth for all terms": ((1, 6, 7, 3), [1, 3], {"radius": 2, "xy_sigma": 2.5, "weights": [2.0, 0.1]}),
    "some terms without position": ((1, 7, 5, 2), [5, 1, 0], {"radius": 1, "xy_sigma": [None, 2.0, 1.0]}),
}


def make_inputs(shape, channels, seed=0):
    """-> p, and features that are not alike but alike enough to matter."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(shape[-1]), shape[:3]).astype(np.float32)
    terms = [rng.normal(0, 0.7, (*shape[:3], count)).astype(np.float32) if count else None for count in channels]
    return p, terms if len(terms) > 1 else terms[0]


def make_gates(shape, seed=1):
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(size=(2, *shape[:3])).astype(np.float32)
    return np.where(source < 0.3, 0, source), np.where(target < 0.2, 0, target)


def run_filter(p, features, **options):
    return jax.jit(lambda p: local_filter(p, features, **options))(p)


def energy_and_grad(p, features, **options):
    return jax.jit(jax.value_and_grad(lambda p: potts_energy(p, features, **options)))(p)


@pytest.mark.parametrize("case", CASES)
def test_local_filter_is_the_sum_over_all_pairs(case):
    shape, channels, options = CASES[case]
    p, features = make_inputs(shape, channels)
    expected = filtered(p, kernel_matrix(shape[:3], features, **options))
    result = run_filter(p, features, **options)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["one term", "position alone"])
def test_energy_and_gradient_are_the_sums_over_all_pairs(case):
    shape, channels, options = CASES[case]
    p, features = make_inputs(shape, channels)
    expected, expected_grad = potts(p, kernel_matrix(shape[:3], features, **options))
    energy, grad = energy_and_grad(p, features, **options)
    assert energy.shape == ()
    assert energy.dtype == jnp.float32
    np.testing.assert_allclose(energy, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["one term", "single row", "two terms"])
def test_fractional_gates_weigh_the_pairs_of_energy_and_gradient(case):
    shape, channels, options = CASES[case]
    p, features = make_inputs(shape, channels)
    source, target = make_gates(shape)
    expected, expected_grad = potts(p, kernel_matrix(shape[:3], features, **options), source, target)
    energy, grad = energy_and_grad(p, features, source=source, target=target, **options)
    np.testing.assert_allclose(energy, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("gate", "dtype"), [("source", np.float32), ("target", bool), ("source", np.int32)])
def test_one_gate_of_any_dtype_leaves_the_other_open(gate, dtype):
    shape, channels, options = CASES["one term"]
    p, features = make_inputs(shape, channels)
    mask = (make_gates(shape)[1] * 2).astype(dtype)
    expected, expected_grad = potts(p, kernel_matrix(shape[:3], features, **options), **{gate: mask})
    energy, grad = energy_and_grad(p, features, **{gate: jnp.asarray(mask)}, **options)
    np.testing.assert_allclose(energy, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_a_radius_of_any_integer_type_is_the_same():
    shape, channels, options = CASES["one term"]
    p, features = make_inputs(shape, channels)
    expected = run_filter(p, features, **options)
    for kind in (np.int64, np.uint8):
        np.testing.assert_array_equal(run_filter(p, features, radius=kind(2)), expected)


def test_negative_and_large_values_of_p_are_filtered_like_any_other():
    shape, channels, options = CASES["two terms"]
    p, features = make_inputs(shape, channels)
    p = (1e3 * (p - 0.5)).astype(np.float32)
    expected = filtered(p, kernel_matrix(shape[:3], features, **options))
    np.testing.assert_allclose(run_filter(p, features, **options), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    shape, channels, options = CASES["one term"]
    p, features = (jnp.asarray(array, dtype) for array in make_inputs(shape, channels))
    result = run_filter(p, features, **options)
    assert result.dtype == jnp.float32
    kernel = kernel_matrix(shape[:3], np.asarray(features, np.float32), **options)
    np.testing.assert_allclose(result, filtered(np.asarray(p, np.float32), kernel), rtol=1e-5)
    grad = jax.eval_shape(jax.grad(lambda p: potts_energy(p, features, **options)), p)
    assert grad.dtype == dtype


@pytest.mark.parametrize("dtypes", [(np.float64, np.float32), (np.float32, np.float64)])
def test_any_mixture_of_float32_and_float64_is_filtered_in_the_precision_of_the_labelling(dtypes):
    shape, channels, options = CASES["one channel with position"]
    p, features = make_inputs(shape, channels)
    with jax.enable_x64(True):
        result = run_filter(jnp.asarray(p, dtypes[0]), jnp.asarray(features, dtypes[1]), **options)
    assert result.dtype == dtypes[0]
    np.testing.assert_allclose(result, filtered(p, kernel_matrix(shape[:3], features, **options)), rtol=1e-5, atol=1e-6)


def test_numbers_of_numpy_in_double_precision_leave_single_precision_alone():
    p, features = make_inputs((1, 5, 7, 2), [1])
    numbers = {"xy_sigma": np.float64(2.0), "weights": np.array([0.5])}
    with jax.enable_x64(True):
        shapes = [jax.ShapeDtypeStruct(array.shape, np.float32) for array in (p, features)]
        result = jax.eval_shape(lambda p, f: local_filter(p, f, radius=1, **numbers), *shapes)
        energy = jax.eval_shape(lambda p, f: potts_energy(p, f, radius=1, **numbers), *shapes)
    assert result.dtype == energy.dtype == np.float32


def test_weights_and_bandwidths_may_be_traced_and_compile_once():
    shape, channels, options = CASES["two terms"]
    p, features = make_inputs(shape, channels)
    traced = []

    @jax.jit
    def run(sigmas, weights):
        traced.append(1)
        return local_filter(p, features, radius=options["radius"], xy_sigma=sigmas, weights=weights)

    for sigmas, weights in (([3.0, 1.5], [0.9, 0.4]), ([1.0, 2.0], [0.0, 3.0])):
        expected = filtered(p, kernel_matrix(shape[:3], features, options["radius"], sigmas, weights))
        given = jnp.array(sigmas), jnp.array(weights)
        np.testing.assert_allclose(run(*given), expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_neither_gate_of_the_energy_lets_through_may_hold_anything(value):
    shape, channels, options = CASES["one channel with position"]
    p, features = make_inputs(shape, channels)
    source, target = make_gates(shape)
    out = (source == 0) & (target == 0)
    assert out.any()
    run = jax.jit(jax.value_and_grad(lambda p, f: potts_energy(p, f, source=source, target=target, **options)))
    expected = run(p, features)
    p[out], features[out] = value, value
    jax.tree.map(np.testing.assert_array_equal, run(p, features), expected)


def test_an_interior_pixel_of_one_colour_sees_the_kernel_mass_of_the_paper():
    ones = jnp.ones((1, 11, 11, 1))
    mass = local_filter(ones, jnp.full((1, 11, 11, 3), 0.3), radius=5, xy_sigma=6.0)
    assert float(mass[0, 5, 5, 0]) == pytest.approx(92.009, abs=1e-3)


@pytest.mark.parametrize("case", ["one term", "some terms without position"])
def test_local_filter_is_self_adjoint(case):
    shape, channels, options = CASES[case]
    a, features = make_inputs(shape, channels)
    b = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    left = jnp.vdot(a, run_filter(b, features, **options))
    right = jnp.vdot(run_filter(a, features, **options), b)
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_features_and_gates_get_no_gradient():
    shape, channels, options = CASES["one channel with position"]
    p, features = make_inputs(shape, channels)
    source, target = make_gates(shape)

    def total(features, source, target):
        energy = potts_energy(p, features, source=source, target=target, **options)
        return energy + local_filter(p, features, **options).sum()

    for grad in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(features, source, target):
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


P = np.zeros((2, 5, 7, 3), np.float32)
F = np.zeros((2, 5, 7, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"p": P[0]}, ValueError, r"p is \[5,7,3\]"),
        ({"p": P.astype(np.int32)}, TypeError, "p is int32"),
        ({"features": F[:1]}, ValueError, r"features is \[1,5,7,3\] but must be \[2,5,7,F\]"),
        ({"features": F[:, :4]}, ValueError, r"features is \[2,4,7,3\]"),
        ({"features": F[..., 0]}, ValueError, r"features is \[2,5,7\]"),
        ({"features": F.astype(np.uint8)}, TypeError, "features is uint8"),
        ({"features": [F, F[:, :, :6]]}, ValueError, "features is"),
        ({"features": []}, ValueError, "features"),
        ({"radius": 0}, ValueError, "radius is 0"),
        ({"radius": -1}, ValueError, "radius is -1"),
        ({"radius": 2.5}, ValueError, "radius is 2.5"),
        ({"radius": True}, ValueError, "radius is True"),
        ({"xy_sigma": 0}, ValueError, "xy_sigma is 0"),
        ({"xy_sigma": -2.0}, ValueError, "xy_sigma is -2.0"),
        ({"xy_sigma": np.nan}, ValueError, "xy_sigma is nan but a bandwidth must be positive"),
        ({"xy_sigma": "6"}, TypeError, "xy_sigma is 6 but must be a number"),
        ({"weights": [-1.0]}, ValueError, "weights has -1.0 but a weight must be finite and not negative"),
        ({"weights": jnp.array([jnp.nan])}, ValueError, "weights has nan"),
        ({"xy_sigma": [1.0, 2.0]}, ValueError, "xy_sigma has 2 entries but features has 1"),
        ({"features": [F, None], "xy_sigma": [1.0]}, ValueError, "xy_sigma has 1 entries but features has 2"),
        ({"features": [F, None], "xy_sigma": [None, 0.0]}, ValueError, "xy_sigma is 0.0"),
        ({"weights": [1.0, 1.0]}, ValueError, "weights has 2 entries but features has 1"),
        ({"weights": []}, ValueError, "weights has 0 entries"),
        ({"implementation": "cuda"}, ValueError, "implementation is 'cuda'"),
    ],
)
@pytest.mark.parametrize("function", [local_filter, potts_energy])
def test_wrong_arguments_raise_an_error_that_names_the_argument(function, changes, error, message):
    arguments = {"p": P, "features": F, "radius": 2} | changes
    with pytest.raises(error, match=f"{function.__name__}: {message}"):
        function(arguments.pop("p"), arguments.pop("features"), **arguments)


@pytest.mark.parametrize("gate", ["source", "target"])
@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 7, 1), (1, 5, 7), (2, 5, 6)])
def test_a_gate_of_another_shape_raises_an_error_that_names_it(gate, shape):
    with pytest.raises(ValueError, match=rf"potts_energy: {gate} is .* but must be \[2,5,7\]"):
        potts_energy(P, F, radius=2, **{gate: np.ones(shape, np.float32)})


@pytest.mark.parametrize(("form", "channels"), [("library", 9), ("cpu", 16)])
def test_channels_fill_whole_vectors_on_cpus_alone(form, channels):
    p, features = jnp.ones((1, 6, 6, 9)), jnp.ones((1, 6, 6, 3))
    with convolution_form(form):
        traced = str(jax.make_jaxpr(lambda p: local_filter(p, features, radius=2))(p))
    assert f"f32[1,10,10,{channels}]" in traced
