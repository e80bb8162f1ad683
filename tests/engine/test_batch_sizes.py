"""A batch that devices cannot share comes with sizes that they can; a resumed run keeps its own."""

import re

import pytest

from semiseg_jax import load_config
from semiseg_jax.config import default_config, settings
from semiseg_jax.config_files import arguments_of, shipped_configs
from semiseg_jax.engine.batch_sizes import BatchSizeError, changed, kept, legal_sizes, rows_of

PAPERS = [
    (name, setting)
    for name in shipped_configs()
    if isinstance(settings_of := arguments_of(name).get("setting", ()), tuple)
    for setting in settings_of
    if setting != "small"
]


def run(batch_size: int, quota: int = 2, accumulate: int = 1, **optimizer):
    config = default_config()
    config.update({"batch_size": batch_size, "accumulate": accumulate, "data": {"quota": {"dense": quota}}})
    config.optimizer.update(optimizer)
    return settings(config)


@pytest.mark.parametrize(("name", "setting"), PAPERS)
def test_settings_of_papers_have_a_batch_of_their_own_and_on_many_devices_one_near_it_works(name, setting):
    strong = ",strong=disk" if name == "transfer" else ""
    paper = settings(load_config(f"{name}:setting={setting},weights=none{strong}"))
    assert paper.batch_size > 0
    assert rows_of([paper], 1) == [paper.batch_size]
    for devices in (3, 8, 64):
        error = refused(paper, devices)
        for size in error.legal if error else [paper.batch_size]:
            assert rows_of([paper.replace(batch_size=size)], devices) == [size // devices]
        if error:
            assert f"--config.batch_size={error.legal[0]} --config.optimizer.learning_rate=" in str(error)


def refused(run, devices: int) -> BatchSizeError | None:
    try:
        rows_of([run], devices)
    except BatchSizeError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("batch_size", "unit", "expected"),
    [
        (20, 16, [16, 32, 48, 64]),
        (24, 16, [32, 16, 48, 64]),
        (20, 128, [128, 256, 384, 512]),
        (100, 8, [104, 96, 112, 88]),
    ],
)
def test_legal_sizes_are_multiples_around_the_one_asked_for_the_nearest_first(batch_size, unit, expected):
    assert legal_sizes(batch_size, unit) == expected


@pytest.mark.parametrize(
    ("optimizer", "rate", "rule"),
    [("sgd", "0.08", "as is usual for SGD"), ("adamw", "0.08944", "as is usual for Adam")],
)
def test_the_learning_rate_follows_the_batch_linearly_for_sgd_and_by_the_root_for_adam(optimizer, rate, rule):
    with pytest.raises(BatchSizeError) as error:
        rows_of([run(20, name=optimizer, learning_rate=0.1)], 8)
    assert f"--config.batch_size=16 --config.optimizer.learning_rate={rate}." in str(error.value)
    assert "batch_size 20 is not divisible by 8 devices. Legal batch sizes on 8 devices near it: 16, 32, 48, 64" in str(
        error.value
    )
    assert "Batches of 20 can be shared by 1, 2, 5 or 10 devices." in str(error.value)
    assert rule in str(error.value)


def test_optimisers_that_a_method_has_beside_it_are_scaled_too():
    config = load_config("adversarial:setting=paper,weights=none")
    with pytest.raises(BatchSizeError) as error:
        rows_of([settings(config)], 8)
    flags = dict(re.findall(r"--config\.(\S+)=(\S+?)[. ]", str(error.value) + " "))
    assert set(flags) == {"batch_size", "optimizer.learning_rate", "adversarial.optimizer.learning_rate"}


def test_sizes_suit_all_stages_of_a_run():
    stages = [run(20, quota=2), run(20, quota=5)]
    assert rows_of(stages, 2) == [10, 10]
    with pytest.raises(BatchSizeError) as error:
        rows_of(stages, 4)
    assert sorted(error.value.legal) == [40, 80, 120, 160]


@pytest.mark.parametrize(("first", "devices", "size"), [(2, 2, 0), (4, 1, 8), (4, 2, 8), (2, 4, 0), (3, 2, 0)])
def test_a_resumed_run_keeps_the_images_of_its_first_devices_where_it_can_and_else_says_so(first, devices, size):
    config = run(0)
    assert kept(config, first, devices) == size
    assert kept(run(20), first, devices) == 20
    line = changed(config, first, devices)
    assert bool(line) == (devices not in (1, 2, 4) or first % devices > 0)
    if line:
        assert f"THE BATCH CHANGES from {2 * first} to {2 * devices} images an update" in line
        assert len(line.splitlines()) == 1
    assert not changed(run(20), first, devices)
