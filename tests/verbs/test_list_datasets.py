"""`semiseg list datasets`."""

from semiseg_jax.data.datasets import BUILDERS
from semiseg_jax.verbs.list import CARD_WIDTH, list_names


def test_every_dataset_has_a_card_that_fits_a_terminal(capsys):
    list_names("datasets")
    text = capsys.readouterr().out
    blocks = {block.split()[0]: block for block in text.split("\n\n")}
    assert list(blocks) == list(BUILDERS)
    for name, block in blocks.items():
        assert max(map(len, block.splitlines())) <= CARD_WIDTH, name
        heads = [line.split()[0] for line in block.splitlines() if line.startswith("    ") and line[4] != " "]
        assert heads[:5] == ["classes", "splits", "licence", "source", "tree"], name


def test_options_of_a_dataset_are_listed_with_their_meaning(capsys):
    list_names("datasets")
    assert "option   fold = 0: which fifth of the images tests" in capsys.readouterr().out
