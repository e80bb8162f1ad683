"""Faults of the array operations."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "ops-filter-centre",
        "a pixel is its own neighbour",
        "ops/pairwise.py",
        (
            (
                "exponents = jnp.where(distance == 0, -jnp.inf, -distance[None] * falloffs[:, None, None])",
                "exponents = -distance[None] * falloffs[:, None, None]",
            ),
            ("return jnp.where(distance == 0, -jnp.inf, exponents)", "return exponents"),
        ),
        first=("test_pairwise.py",),
    ),
    Mutation(
        "ops-filter-radius",
        "the window lacks its last row and column",
        "ops/pairwise.py",
        (
            ("    width = 2 * radius + 1\n", "    width = 2 * radius\n"),
            ("ops/_pairwise_xla.py", "    width = 2 * radius + 1\n", "    width = 2 * radius\n"),
        ),
        first=("test_pairwise.py",),
    ),
    Mutation(
        "ops-filter-gates",
        "the gates of source and target are mixed up",
        "ops/pairwise.py",
        (
            (
                "kernel *= 0.5 * (gate_centres[1] * source + gate_centres[0] * target)",
                "kernel *= 0.5 * (gate_centres[0] * source + gate_centres[1] * target)",
            ),
            (
                "ops/_pairwise_xla.py",
                "kernel *= 0.5 * (gate_centres[1] * source + gate_centres[0] * target)",
                "kernel *= 0.5 * (gate_centres[0] * source + gate_centres[1] * target)",
            ),
        ),
        first=(
            "test_pairwise.py::test_fractional_gates",
            "test_pairwise.py",
        ),
    ),
    Mutation(
        "ops-filter-bandwidth",
        "features lack the half of the exponent",
        "ops/pairwise.py",
        (
            ("* math.sqrt(0.5)", "* 1.0"),
            ("ops/kernels.py", "math.sqrt(0.5)", "1.0"),
        ),
        first=(
            "test_pairwise.py::test_local_filter_is_the_sum",
            "test_pairwise.py",
        ),
    ),
    Mutation(
        "ops-energy-gradient",
        "the gradient of the energy lacks its factor 2",
        "ops/pairwise.py",
        (
            (
                "return energy, -2.0 * jnp.sum(filtered * tangents[0])",
                "return energy, -jnp.sum(filtered * tangents[0])",
            ),
            ("return energy, -2.0 * jnp.sum(summed * tangents[0])", "return energy, -jnp.sum(summed * tangents[0])"),
        ),
        first=(
            "test_pairwise.py::test_energy_and_gradient",
            "test_pairwise.py",
        ),
    ),
    Mutation(
        "ops-pallas-gates",
        "in the GPU kernel the gates of source and target are mixed up",
        "ops/_pairwise_gpu.py",
        (
            (
                ("weight *= 0.5 * (centres[target] * guide(source, dy, dx) + centres[source] * guide(target, dy, dx))"),
                ("weight *= 0.5 * (centres[source] * guide(source, dy, dx) + centres[target] * guide(target, dy, dx))"),
            ),
        ),
        first=(
            "gpu_kernel_equals_xla_with_gates",
            "gates",
            "gpu",
            "pallas",
        ),
    ),
    Mutation(
        "ops-meanfield-sign",
        "mean field pushes neighbours apart",
        "ops/crf.py",
        (("jax.nn.softmax(log_probs - cost)", "jax.nn.softmax(log_probs + cost)"),),
        first=("test_mean_field",),
    ),
    Mutation(
        "ops-meanfield-mask",
        "pixels that do not exist pull",
        "ops/crf.py",
        (
            ("scale = valid / jnp.sqrt(mass)", "scale = 1 / jnp.sqrt(mass)"),
            ("scale = valid[..., None] * per_root_mass(", "scale = per_root_mass("),
        ),
        first=("test_mean_field",),
    ),
    Mutation(
        "ops-diffusion-alpha",
        "label diffusion lacks its factor 1 - alpha",
        "ops/diffusion.py",
        (("return (1.0 - alpha) * jnp.linalg.solve(", "return jnp.linalg.solve("),),
        first=("test_diffusion",),
    ),
    Mutation(
        "ops-diffusion-degree",
        "grid diffusion divides by the degree of one end only",
        "ops/diffusion.py",
        (
            (
                "return scores - alpha * root * filtered(root * scores, planes, window)",
                "return scores - alpha * root * root * filtered(scores, planes, window)",
            ),
            (
                "return scores - alpha * root * filtered(root * scores, mine, window)",
                "return scores - alpha * root * root * filtered(scores, mine, window)",
            ),
        ),
        first=("test_diffusion.py::test_grid",),
    ),
    Mutation(
        "ops-selfdiffusion-identity",
        "self-diffusion adds no identity",
        "ops/diffusion.py",
        (('precision="highest") + identity, None', 'precision="highest"), None'),),
        first=("test_diffusion.py::test_self",),
    ),
    Mutation(
        "ops-superpixels-crumbs",
        "small parts of superpixels stay as they are",
        "ops/slic.py",
        (("small = np.bincount(parts) < least", "small = np.bincount(parts) < 0"),),
        first=("test_slic.py",),
    ),
    Mutation(
        "ops-mrf-diagonal",
        "diagonal neighbours cost as much as straight ones",
        "ops/mrf.py",
        (("beta / np.hypot(dy, dx)", "beta"),),
        first=("test_mrf",),
    ),
    Mutation(
        "ops-covered-nan",
        "NaN in a mask counts as covered",
        "ops/images.py",
        (("nan=0.0), 1.0)", "nan=1.0), 1.0)"),),
        first=("test_images",),
    ),
    Mutation(
        "ops-area-overlap",
        "areas of old and new pixels are mixed up",
        "ops/images.py",
        (
            (
                "overlap = jnp.minimum(start + length, old + pixels)",
                "overlap = jnp.minimum(start + pixels, old + length)",
            ),
        ),
        first=("test_images",),
    ),
    Mutation(
        "ops-unit-range",
        "bytes are divided by 256",
        "ops/images.py",
        (("jnp.asarray(image, jnp.float32) / 255.0", "jnp.asarray(image, jnp.float32) / 256.0"),),
        first=("test_images",),
    ),
    Mutation(
        "ops-blur-border",
        "weights of a blur are normalised over the wrong axis",
        "ops/images.py",
        (("kernel / kernel.sum(axis=1, keepdims=True)", "kernel / kernel.sum(axis=0, keepdims=True)"),),
        first=("test_images.py::test_gaussian",),
    ),
    Mutation(
        "ops-conv-padding",
        "padding is put on the wrong side",
        "ops/convolution.py",
        (
            (
                "return _place(total, (pads[0][0], pads[1][0]), x.shape[1:3])",
                "return _place(total, (pads[0][1], pads[1][1]), x.shape[1:3])",
            ),
            ("jnp.pad(x, [(0, 0), *pads, (0, 0)])", "jnp.pad(x, [(0, 0), *(pair[::-1] for pair in pads), (0, 0)])"),
        ),
        first=("test_convolution",),
    ),
    Mutation(
        "ops-conv-dilation",
        "taps of a dilated convolution lie side by side",
        "ops/convolution.py",
        (("_view(padded, 2, j * dilation, stride, width)", "_view(padded, 2, j, stride, width)"),),
        first=("test_convolution",),
    ),
    Mutation(
        "ops-conv-stride",
        "a 1x1 convolution with a stride keeps all columns",
        "ops/convolution.py",
        (("x[:, ::stride, ::stride], kernel[0, 0]", "x[:, ::stride], kernel[0, 0]"),),
        first=("test_convolution",),
    ),
)
