"""How fast is a train step, and what does it need? Every network, and the step of the adversarial method.

    python experiments/benchmarks/train_step.py                        # everything, half an hour on two cores
    python experiments/benchmarks/train_step.py --only=v3plus --rounds=9
    python experiments/benchmarks/train_step.py --dtype=bfloat16       # on an accelerator

Contestants take turns in one process, a step each; times are medians, and behind each stands our time over theirs.
`library` is the same network with every convolution left to XLA. `torch` is the same network in eager PyTorch
(`compiled`: torch.compile on a GPU), `smp` the nearest one of segmentation-models-pytorch, its DeepLabV3Plus, whose
first decoder layer is at stride 16 instead of 4; each where it is installed. `memory` is XLA's plan for the step:
arguments, outputs and buffers. `utilisation` is three forward passes of multiply-adds over time and `--peak`, the
operations that the device can do in a second. With `--clock=cpu` times are processor seconds, for machines on which
others work too; set OMP_WAIT_POLICY=passive, so that PyTorch's threads do not count while they wait.
"""

import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from experiments.benchmarks import torch_networks as rival
from semiseg_jax import models
from semiseg_jax.engine.parallel import keep_memory
from semiseg_jax.losses import adversarial_loss, confident_self_training, discriminator_loss, partial_cross_entropy
from semiseg_jax.ops.convolution import convolution_form

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "regular expression; the rows in whose name it is found")
flags.DEFINE_string("without", "", "regular expression; contestants in whose name it is found are left out")
flags.DEFINE_integer("rounds", 5, "timed steps of each contestant")
flags.DEFINE_enum("dtype", "float32", tuple(models.DTYPES), "dtype of the computation")
flags.DEFINE_enum("clock", "wall", ("wall", "cpu"), "what is measured")
flags.DEFINE_float("peak", 0.0, "operations a second of the device, for the utilisation; 0 = leave it out")

CLASSES = 21
# name -> network, its options, images, side
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "unet quickstart": ("unet", {}, 8, 64),
    "unet": ("unet", {}, 8, 160),
    "deeplab_mobile": ("deeplab_mobile", {"layout": "tensorflow", "norm": "none"}, 8, 160),
    "v3plus mobilenet_v2": ("deeplab_v3plus", {"backbone": "mobilenet_v2", "separable": True}, 8, 160),
    "v3plus resnet34": ("deeplab_v3plus", {"backbone": "resnet34", "separable": True}, 4, 256),
    "v3plus resnet50": ("deeplab_v3plus", {"backbone": "resnet50", "separable": True}, 4, 256),
    "v2 resnet101": ("deeplab_v2", {}, 2, 321),
}
RIVALS = ("library", "torch", "smp", "compiled")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Step = Callable[[], None]


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    keep_memory()
    device = jax.devices()[0]
    versions = f"jax {jax.__version__}" + (f", torch {rival.torch.__version__}" if rival.torch is not None else "")
    print(f"{device.platform} ({device.device_kind}), {len(os.sched_getaffinity(0))} cores, {versions}, {FLAGS.dtype}")
    columns = ("images", "side", "step", "images/s", "compile", "memory", *RIVALS, "utilisation")
    print(f"{'':<22}" + "".join(f"{column:>15}" for column in columns))
    for name, (network, options, batch, side) in NETWORKS.items():
        if re.search(FLAGS.only, name):
            report(name, batch, side, *supervised(network, options, batch, side))
    if re.search(FLAGS.only, "adversarial"):
        report("adversarial 2+2", 4, 321, *adversarial(321))


def report(name: str, batch: int, side: int, steps: dict[str, Step], cost: dict[str, float]) -> None:
    clock = CLOCKS[FLAGS.clock]
    times: dict[str, list[float]] = {who: [] for who in steps}
    for step in steps.values():
        step()
    for _ in range(FLAGS.rounds):
        for who, step in steps.items():
            start = clock()
            step()
            times[who].append(clock() - start)
    median = {who: float(np.median(values)) for who, values in times.items()}
    compiling = f"{cost['compile']:.0f} s"
    if "compile library" in cost:
        compiling += f" {cost['compile'] / cost['compile library']:.2f}"
    cells = [f"{batch}", f"{side}", f"{median['ours'] * 1e3:.0f} ms", f"{batch / median['ours']:.1f}"]
    cells += [compiling, f"{cost['bytes'] / 2**20:.0f} MiB"]
    for who in RIVALS:
        cells.append(f"{median[who] * 1e3:.0f} ms {median['ours'] / median[who]:.2f}" if who in median else "-")
    cells.append(f"{6 * cost['work'] / median['ours'] / FLAGS.peak:.2f}" if FLAGS.peak else "-")
    print(f"{name:<22}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


def supervised(
    network: str, options: dict[str, Any], batch: int, side: int
) -> tuple[dict[str, Step], dict[str, float]]:
    image, label = pictures(batch, side)
    model = models.make_model(network, CLASSES, dtype=FLAGS.dtype, **options)
    variables = drawn(model, image[:1])
    optimizer = optax.adamw(1e-4)

    def step(state: Any, image: jax.Array, label: jax.Array) -> Any:
        params, stats, slots = state

        def loss(params: Any) -> Any:
            both = {"params": params, "batch_stats": stats}
            logits, updated = model.apply(both, image, train=True, mutable=["batch_stats"])
            return partial_cross_entropy(logits, label), updated.get("batch_stats", {})

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, slots = optimizer.update(grads, slots, params)
        return optax.apply_updates(params, updates), stats, slots

    params = variables["params"]
    state = (params, variables.get("batch_stats", {}), optimizer.init(params))
    run, cost = compiled(step, state, image, label)
    cost["work"] = models.summary(model, image.shape).multiply_adds
    steps = {"ours": run}
    if wanted("library"):
        with convolution_form("library"):
            steps["library"], library_cost = compiled(step, state, image, label)
        cost["compile library"] = library_cost["compile"]
    for who, make in torch_rivals(network, options).items():
        if wanted(who):
            steps |= torch_steps(who, functools.partial(torch_supervised, make, image, label))
    return steps, cost


def drawn(model: Any, *inputs: np.ndarray) -> Any:
    """Variables of a network, by NumPy: compiling JAX's generators for every shape takes longer than the benchmark."""
    random = np.random.default_rng(0)

    def value(path: Any, like: Any) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            return random.normal(0, np.sqrt(2 / np.prod(like.shape[:-1])), like.shape).astype(np.float32)
        return np.full(like.shape, name in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(value, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def wanted(who: str) -> bool:
    return not (FLAGS.without and re.search(FLAGS.without, who))


def torch_rivals(network: str, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Those that exist of a network."""
    found: dict[str, Callable[[], Any]] = {}
    if rival.torch is not None and network == "deeplab_v2":
        found["torch"] = lambda: rival.DeepLabV2(CLASSES)
    if rival.torch is not None and network == "deeplab_v3plus":
        found["torch"] = lambda: rival.DeepLabV3Plus(options["backbone"], CLASSES)
    if rival.smp is not None and network == "deeplab_v3plus":
        encoder = options["backbone"]
        found["smp"] = lambda: rival.smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)
    return found


def adversarial(side: int) -> tuple[dict[str, Step], dict[str, float]]:
    """Two labelled and two unlabelled images; one update of generator and discriminator."""
    image, label = pictures(2, side)
    unlabelled = pictures(2, side, seed=1)[0]
    generator = models.make_model("deeplab_v2", CLASSES, dtype=FLAGS.dtype)
    discriminator = models.Discriminator(dtype=models.DTYPES[FLAGS.dtype])
    optimizers = optax.sgd(2.5e-4, 0.9), optax.adam(1e-4, 0.9, 0.99)

    def judged(d_params: Any, probs: jax.Array) -> Any:
        return discriminator.apply({"params": d_params}, probs)

    def step(state: Any, image: jax.Array, label: jax.Array, unlabelled: jax.Array) -> Any:
        (params, stats, slots), (d_params, d_slots) = state

        def loss(params: Any) -> Any:
            both = {"params": params, "batch_stats": stats}
            logits_u, updated = generator.apply(both, unlabelled, train=True, mutable=["batch_stats"])
            both = {"params": params, **updated}
            logits, updated = generator.apply(both, image, train=True, mutable=["batch_stats"])
            probs, probs_u = jax.nn.softmax(logits), jax.nn.softmax(logits_u)
            seen, seen_u = judged(d_params, probs), judged(d_params, probs_u)
            confidence = jax.lax.stop_gradient(jax.nn.sigmoid(seen_u))
            total = partial_cross_entropy(logits, label) + 0.01 * adversarial_loss(seen)
            total += 0.001 * adversarial_loss(seen_u) + 0.1 * confident_self_training(logits_u, confidence)
            return total, (updated["batch_stats"], jnp.concatenate([probs, probs_u]))

        grads, (stats, fake) = jax.grad(loss, has_aux=True)(params)

        def d_loss(d_params: Any) -> jax.Array:
            return discriminator_loss(judged(d_params, jax.nn.one_hot(label, CLASSES)), judged(d_params, fake))

        updates, slots = optimizers[0].update(grads, slots, params)
        d_updates, d_slots = optimizers[1].update(jax.grad(d_loss)(d_params), d_slots, d_params)
        new = optax.apply_updates(params, updates), stats, slots
        return new, (optax.apply_updates(d_params, d_updates), d_slots)

    variables = drawn(generator, image[:1])
    d_params = drawn(discriminator, np.zeros((1, side, side, CLASSES), np.float32))["params"]
    first = (variables["params"], variables["batch_stats"], optimizers[0].init(variables["params"]))
    run, cost = compiled(step, (first, (d_params, optimizers[1].init(d_params))), image, label, unlabelled)
    cost["work"] = 2 * models.summary(generator, image.shape).multiply_adds
    steps = {"ours": run}
    if rival.torch is not None and wanted("torch"):
        make = functools.partial(torch_adversarial, image, label, unlabelled)
        steps |= torch_steps("torch", make)
    return steps, cost


def compiled(step: Callable, state: Any, *arrays: np.ndarray) -> tuple[Step, dict[str, float]]:
    """A call that makes one step of its own copy of the state, and what compiling told."""
    state, placed = jax.tree.map(jnp.copy, state), jax.device_put(arrays)
    clock = CLOCKS[FLAGS.clock]
    start = clock()
    program = jax.jit(step, donate_argnums=0).lower(state, *placed).compile()
    seconds = clock() - start
    plan: Any = program.memory_analysis()
    needed = (
        plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    )
    held = [state]

    def run() -> None:
        held[0] = jax.block_until_ready(program(held[0], *placed))

    return run, {"compile": seconds, "bytes": needed}


def torch_steps(who: str, make: Callable[[bool], Step]) -> dict[str, Step]:
    rival.torch.set_num_threads(len(os.sched_getaffinity(0)))
    steps = {who: make(False)}
    if rival.torch.cuda.is_available() and who == "torch":
        rival.torch.set_float32_matmul_precision("high")  # TF32, as JAX's default
        steps["compiled"] = make(True)
    return steps


def torch_supervised(make: Callable[[], Any], image: np.ndarray, label: np.ndarray, compile: bool) -> Step:
    network, (image, label) = placed(make(), compile), tensors(image, label)
    optimizer = rival.torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)
    return timed(lambda: rival.supervised_step(network, optimizer, image, label))


def torch_adversarial(image: np.ndarray, label: np.ndarray, unlabelled: np.ndarray, compile: bool) -> Step:
    networks = placed(rival.DeepLabV2(CLASSES), compile), placed(rival.Discriminator(CLASSES), compile)
    image, label, unlabelled = tensors(image, label, unlabelled)
    optimizers = (
        rival.torch.optim.SGD([p for p in networks[0].parameters() if p.requires_grad], 2.5e-4, 0.9),
        rival.torch.optim.Adam(networks[1].parameters(), 1e-4, (0.9, 0.99)),
    )
    return timed(lambda: rival.adversarial_step(networks, optimizers, image, label, unlabelled, CLASSES))


def timed(step: Step) -> Step:
    def run() -> None:
        with rival.torch.autocast(torch_device(), rival.torch.bfloat16, enabled=FLAGS.dtype == "bfloat16"):
            step()
        if torch_device() == "cuda":
            rival.torch.cuda.synchronize()

    return run


def torch_device() -> str:
    return "cuda" if rival.torch.cuda.is_available() else "cpu"


def placed(network: Any, compile: bool) -> Any:
    network = network.to(torch_device()).train()
    return rival.torch.compile(network) if compile else network


def tensors(*arrays: np.ndarray) -> list[Any]:
    moved = [np.moveaxis(x, -1, 1) if x.ndim == 4 else x.astype(np.int64) for x in arrays]
    return [rival.torch.tensor(np.ascontiguousarray(x), device=torch_device()) for x in moved]


def pictures(batch: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.normal(size=(batch, side, side, 3)).astype(np.float32)
    return image, random.integers(0, CLASSES, (batch, side, side)).astype(np.int32)


if __name__ == "__main__":
    app.run(main)
