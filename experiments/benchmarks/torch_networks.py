"""Networks and the adversarial method's step in PyTorch: what `train_step.py` compares with."""

import importlib
import importlib.util
import itertools
from typing import Any


def _optional(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


torch, smp = _optional("torch"), _optional("segmentation_models_pytorch")
# Of MobileNetV2 at output stride 16: expansion, channels, blocks, stride of the first, dilation.
MOBILENET = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 2, 1),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 1, 2),
    (6, 320, 1, 1, 2),
)

if torch is not None:
    F: Any = torch.nn.functional
    nn: Any = torch.nn

    def unit(inputs: int, outputs: int, size: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> Any:
        """Convolution and norm."""
        pad = dilation * (size - 1) // 2
        conv = nn.Conv2d(inputs, outputs, size, stride, pad, dilation, groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        """Of a ResNet. The stride of a bottleneck is on its first convolution (`caffe`) or its second."""

        def __init__(self, inputs: int, width: int, stride: int, dilation: int, bottleneck: bool, caffe: bool):
            super().__init__()
            outputs = 4 * width if bottleneck else width
            first, second = (stride, 1) if caffe else (1, stride)
            if bottleneck:
                layers = [unit(inputs, width, 1, first), nn.ReLU(), unit(width, width, 3, second, dilation), nn.ReLU()]
                layers.append(unit(width, outputs))
            else:
                layers = [unit(inputs, width, 3, stride, dilation), nn.ReLU(), unit(width, width, 3, 1, dilation)]
            self.branch = nn.Sequential(*layers)
            same = inputs == outputs and stride == 1
            self.shortcut = nn.Identity() if same else unit(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            return F.relu(self.branch(x) + self.shortcut(x))

    class Inverted(nn.Module):
        """Block of MobileNetV2."""

        def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, dilation: int):
            super().__init__()
            hidden = inputs * expansion
            layers = [unit(inputs, hidden), nn.ReLU6()] if expansion > 1 else []
            layers += [unit(hidden, hidden, 3, stride, dilation, hidden), nn.ReLU6(), unit(hidden, outputs)]
            self.branch, self.added = nn.Sequential(*layers), stride == 1 and inputs == outputs

        def forward(self, x: Any) -> Any:
            return x + self.branch(x) if self.added else self.branch(x)

    def resnet(blocks: tuple[int, ...], places: tuple, bottleneck: bool, caffe: bool) -> tuple[list[Any], int]:
        """Four stages, the first with the stem, and the channels out."""
        stem = [unit(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=caffe)]
        stages, inputs = [], 64
        for index, (count, (stride, dilation)) in enumerate(zip(blocks, places, strict=True)):
            layers = []
            for position in range(count):
                width = 64 * 2**index
                layers.append(Block(inputs, width, 1 if position else stride, dilation, bottleneck, caffe))
                inputs = 4 * width if bottleneck else width
            stages.append(nn.Sequential(*stem, *layers))
            stem = []
        return stages, inputs

    def mobilenet() -> tuple[list[Any], int]:
        """Features at stride 4 and at output stride 16, and the channels out."""
        layers, inputs, cut = [unit(3, 32, 3, 2), nn.ReLU6()], 32, 0
        for expansion, outputs, count, stride, dilation in MOBILENET:
            for position in range(count):
                first = position == 0
                # The block that lost its stride sees its input undilated.
                here = 1 if first and outputs == 160 else dilation
                layers.append(Inverted(inputs, outputs, expansion, stride if first else 1, here))
                inputs = outputs
            if outputs == 24:
                cut = len(layers)
        layers += [unit(inputs, 1280), nn.ReLU6()]
        return [nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])], 1280

    class DeepLabV2(nn.Module):
        """On ResNet-101 in Caffe's layout at output stride 8; scale and offset of the norms do not learn."""

        def __init__(self, classes: int = 21):
            super().__init__()
            stages, channels = resnet((3, 4, 23, 3), ((1, 1), (2, 1), (1, 2), (1, 4)), bottleneck=True, caffe=True)
            self.backbone = nn.Sequential(*stages)
            self.aspp = nn.ModuleList([nn.Conv2d(channels, classes, 3, 1, rate, rate) for rate in (6, 12, 18, 24)])
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)

        def forward(self, x: Any) -> Any:
            features = self.backbone(x)
            logits = sum(branch(features) for branch in self.aspp)
            return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)

    class DeepLabV3Plus(nn.Module):
        """Our network of that name at output stride 16, with separable convolutions in pyramid and decoder."""

        def __init__(self, backbone: str, classes: int = 21, width: int = 256, skip: int = 48):
            super().__init__()
            if backbone == "mobilenet_v2":
                stages, channels = mobilenet()
                low = 24
            else:
                bottleneck = backbone == "resnet50"
                stages, channels = resnet((3, 4, 6, 3), ((1, 1), (2, 1), (2, 1), (1, 2)), bottleneck, caffe=False)
                low = channels // 8
            self.low, self.high = stages[0], nn.Sequential(*stages[1:])

            def separable(inputs: int, rate: int = 1) -> Any:
                depthwise = nn.Conv2d(inputs, inputs, 3, 1, rate, rate, inputs, bias=False)
                return nn.Sequential(depthwise, unit(inputs, width), nn.ReLU())

            pyramid = [nn.Sequential(unit(channels, width), nn.ReLU())]
            self.pyramid = nn.ModuleList(pyramid + [separable(channels, rate) for rate in (6, 12, 18)])
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(channels, width), nn.ReLU())
            self.fuse = nn.Sequential(unit(5 * width, width), nn.ReLU())
            self.skip = nn.Sequential(unit(low, skip), nn.ReLU())
            self.decoder = nn.Sequential(separable(width + skip), separable(width))
            self.classifier = nn.Conv2d(width, classes, 1)

        def forward(self, image: Any) -> Any:
            low = self.low(image)
            x = self.high(low)
            branches = [branch(x) for branch in self.pyramid]
            branches.append(self.pool(x).expand_as(branches[0]))
            x = self.fuse(torch.cat(branches, 1))
            x = F.interpolate(x, low.shape[2:], mode="bilinear")
            logits = self.classifier(self.decoder(torch.cat([x, self.skip(low)], 1)))
            return F.interpolate(logits, image.shape[2:], mode="bilinear")

    class Discriminator(nn.Module):
        def __init__(self, classes: int = 21, width: int = 64):
            super().__init__()
            widths = [classes, width, 2 * width, 4 * width, 8 * width, 1]
            self.convs = nn.ModuleList([nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths)])

        def forward(self, x: Any) -> Any:
            size = x.shape[2:]
            for conv in self.convs[:-1]:
                x = F.leaky_relu(conv(x), 0.2)
            return F.interpolate(self.convs[-1](x), size, mode="bilinear", align_corners=True)


def supervised_step(network: Any, optimizer: Any, image: Any, label: Any) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(image), label, ignore_index=255).backward()
    optimizer.step()


def adversarial_step(networks: Any, optimizers: Any, image: Any, label: Any, unlabelled: Any, classes: int) -> None:
    """One update of generator and discriminator, all terms on."""
    generator, discriminator = networks
    bce = F.binary_cross_entropy_with_logits
    discriminator.requires_grad_(False)
    for optimizer in optimizers:
        optimizer.zero_grad()
    logits_u = generator(unlabelled)
    probs_u = logits_u.softmax(1)
    seen_u = discriminator(probs_u)
    target = torch.where(seen_u.sigmoid()[:, 0] > 0.2, logits_u.argmax(1), 255).detach()
    loss = 0.001 * bce(seen_u, torch.ones_like(seen_u)) + 0.1 * F.cross_entropy(logits_u, target, ignore_index=255)
    loss.backward()
    logits = generator(image)
    probs = logits.softmax(1)
    seen = discriminator(probs)
    (F.cross_entropy(logits, label, ignore_index=255) + 0.01 * bce(seen, torch.ones_like(seen))).backward()
    discriminator.requires_grad_(True)
    fake = discriminator(torch.cat([probs.detach(), probs_u.detach()]))
    real = discriminator(F.one_hot(label, classes).movedim(-1, 1).float())
    (0.5 * (bce(fake, torch.zeros_like(fake)) + bce(real, torch.ones_like(real)))).backward()
    for optimizer in optimizers:
        optimizer.step()
