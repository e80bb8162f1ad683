"""DeepLab-v2, the discriminator and the adversarial method's step in PyTorch: what `train_step.py` compares with."""

import importlib
import importlib.util
import itertools
from typing import Any

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

if torch is not None:
    F: Any = torch.nn.functional
    nn: Any = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, dilation: int):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(4 * width)
            self.shortcut: Any = nn.Identity()
            if inputs != 4 * width or stride > 1:
                conv = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

        def forward(self, x: Any) -> Any:
            y = F.relu(self.bn1(self.conv1(x)))
            y = F.relu(self.bn2(self.conv2(y)))
            return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))

    class DeepLabV2(nn.Module):
        """On ResNet-101 in Caffe's layout at output stride 8; scale and offset of the norms do not learn."""

        def __init__(self, classes: int = 21):
            super().__init__()
            layers: list[Any] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
            layers.append(nn.MaxPool2d(3, 2, 1, ceil_mode=True))
            inputs = 64
            for width, count, stride, dilation in ((64, 3, 1, 1), (128, 4, 2, 1), (256, 23, 1, 2), (512, 3, 1, 4)):
                for index in range(count):
                    layers.append(Block(inputs, width, 1 if index else stride, dilation))
                    inputs = 4 * width
            self.backbone = nn.Sequential(*layers)
            self.aspp = nn.ModuleList([nn.Conv2d(2048, classes, 3, 1, rate, rate) for rate in (6, 12, 18, 24)])
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)

        def forward(self, x: Any) -> Any:
            features = self.backbone(x)
            logits = sum(branch(features) for branch in self.aspp)
            return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)

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
