"""Faults of the networks and of reading their weights."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "models-norm-momentum",
        "the decay of batch statistics is the other way round",
        "models/layers.py",
        (
            (
                "mean.value += (1.0 - self.momentum) * (lax.stop_gradient(batch_mean) - mean.value)",
                "mean.value += self.momentum * (lax.stop_gradient(batch_mean) - mean.value)",
            ),
        ),
        first=(
            "norm",
            "test_layers",
        ),
    ),
    Mutation(
        "models-norm-unbiased",
        "the stored variance is the biased one",
        "models/layers.py",
        (
            (
                "unbiased = lax.stop_gradient(batch_var) * (count / (count - 1))",
                "unbiased = lax.stop_gradient(batch_var)",
            ),
        ),
        first=(
            "test_norms_learn",
            "test_two_devices",
            "test_layers",
        ),
    ),
    Mutation(
        "models-norm-devices",
        "a psum for a pmean of batch statistics",
        "models/layers.py",
        (
            (
                "mean, square = lax.pmean((mean, square), self.axis_name)",
                "mean, square = lax.psum((mean, square), self.axis_name)",
            ),
        ),
        first=(
            "test_two_devices",
            "two_devices",
        ),
    ),
    Mutation(
        "models-norm-affine",
        "scale and offset of affine_frozen learn",
        "models/layers.py",
        (('if self.kind in ("frozen", "affine_frozen"):', 'if self.kind == "frozen":'),),
        first=(
            "test_norms_learn",
            "test_layers",
        ),
    ),
    Mutation(
        "models-norm-frozen",
        "a frozen norm takes the statistics of the batch",
        "models/layers.py",
        (('if train and self.kind != "frozen":', "if train:"),),
        first=(
            "test_norms_learn",
            "test_layers",
        ),
    ),
    Mutation(
        "models-resize-corners",
        "aligned corners are not aligned",
        "models/layers.py",
        (("position = jnp.arange(new) * ((old - 1) / max(new - 1, 1))", "position = jnp.arange(new) * (old / new)"),),
        first=(
            "align",
            "test_resizing",
            "test_layers",
            "test_discriminator",
            "test_deeplab",
            "test_parity",
        ),
    ),
    Mutation(
        "models-resize-centres",
        "an image is shifted by half a pixel when it is resized",
        "models/layers.py",
        (("(jnp.arange(new) + 0.5) * (old / new) - 0.5", "jnp.arange(new) * (old / new)"),),
        first=(
            "test_resizing",
            "test_layers",
            "test_unet",
            "test_parity",
        ),
    ),
    Mutation(
        "models-padding-same",
        "of an odd padding the larger part comes first",
        "models/layers.py",
        (("return total // 2, total - total // 2", "return total - total // 2, total // 2"),),
        first=(
            "test_same_padding",
            "test_layers",
        ),
    ),
    Mutation(
        "models-resnet-dilation",
        "the last layer at output stride 8 has half of its dilation",
        "models/resnet.py",
        (("8: ((1, 1), (2, 1), (1, 2), (1, 4)),", "8: ((1, 1), (2, 1), (1, 2), (1, 2)),"),),
        first=(
            "test_parity",
            "test_networks",
        ),
    ),
    Mutation(
        "models-resnet-stride",
        "the stride of a bottleneck is on the convolution of the other layout",
        "models/resnet.py",
        (("(self.strides, 1) if self.stride_first else", "(self.strides, 1) if not self.stride_first else"),),
        first=(
            "test_parity",
            "test_networks",
        ),
    ),
    Mutation(
        "models-mobilenet-stride",
        "MobileNetV2 stops halving one group too early",
        "models/mobilenet.py",
        (("if stride * wanted <= self.output_stride else 1", "if stride * wanted < self.output_stride else 1"),),
        first=(
            "test_networks.py::test_output_stride",
            "test_networks",
        ),
    ),
    Mutation(
        "models-mobilenet-dilation",
        "the block that loses its stride is dilated already",
        "models/mobilenet.py",
        (
            (
                'name = f"block_{number:02d}"\n',
                'name, dilation = f"block_{number:02d}", dilation * (wanted // strides)\n',
            ),
        ),
        first=(
            "test_networks.py::test_dilated_mobilenet",
            "test_networks",
        ),
    ),
    Mutation(
        "models-variance-gradient",
        "what the variance learns changes the features of the U-Net",
        "models/unet.py",
        (("(jax.lax.stop_gradient(x)) if self.variance", "(x) if self.variance"),),
        first=(
            "variance",
            "test_unet",
            "test_networks",
        ),
    ),
    Mutation(
        "models-dropout-scale",
        "features of which half are dropped are not doubled",
        "models/segmenter.py",
        (("2 * x[first : first + len(seeds)] * kept", "x[first : first + len(seeds)] * kept"),),
        first=(
            "perturb",
            "drop",
            "test_networks",
            "test_unet",
        ),
    ),
    Mutation(
        "models-cam-pooling",
        "the classifier takes the maximum where activation maps want the mean",
        "models/classifier.py",
        (("logits = dense(jnp.mean(features, axis=(1, 2)))", "logits = dense(jnp.max(features, axis=(1, 2)))"),),
        first=(
            "test_networks.py::test_class_activation",
            "activation",
        ),
    ),
    Mutation(
        "models-weights-order",
        "branches of DeepLab-v2 are loaded in the opposite order",
        "models/weight_names.py",
        (('return f"aspp_{match[1]}"', 'return f"aspp_{3 - int(match[1])}"'),),
        first=(
            "test_pretrained.py::test_deeplab_v2",
            "test_pretrained",
        ),
    ),
    Mutation(
        "models-weights-transposed",
        "kernels come in with channels in and out exchanged",
        "models/pretrained.py",
        (("return value.transpose(2, 3, 1, 0)", "return value.transpose(2, 3, 0, 1)"),),
        first=("test_pretrained",),
    ),
    Mutation(
        "models-weights-fold",
        "the offset of a folded norm has the wrong sign",
        "models/pretrained.py",
        (("tensors[bias] = offset - mean * factor", "tensors[bias] = offset + mean * factor"),),
        first=(
            "test_pretrained.py::test_norms_fold",
            "test_pretrained",
        ),
    ),
    Mutation(
        "models-weights-checksum",
        "a checksum does not look at the values",
        "models/pretrained.py",
        (("        digest.update(value.tobytes())\n", ""),),
        first=(
            "checksum",
            "changed",
            "test_pretrained",
        ),
    ),
    Mutation(
        "models-discriminator-corners",
        "the map of the discriminator is upsampled without aligned corners",
        "models/discriminator.py",
        (("probs.shape[1:3], align_corners=True)", "probs.shape[1:3], align_corners=False)"),),
        first=("test_discriminator",),
    ),
)
