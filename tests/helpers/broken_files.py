"""Broken files, made of whole ones; EXAMPLES=10000 pytest -m heavy tests/exchange tries more of them."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from semiseg_jax.exchange.drawings import LabelFileError

EXAMPLES = int(os.environ.get("EXAMPLES", "200"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def mutated(content: bytes):
    """A file in which some pieces are replaced, repeated or cut."""
    piece = st.tuples(st.integers(0, len(content)), st.integers(0, 40), st.binary(max_size=6))

    def apply(pieces):
        changed = content
        for at, count, new in pieces:
            changed = changed[:at] + new + changed[at + count :]
        return changed

    return st.lists(piece, min_size=1, max_size=4).map(apply)


def assert_drawn_or_refused(read, path):
    """Reads a file and draws what it holds; nothing but a refusal that names the file may come of it."""
    refused = []
    try:
        drawings = read(path)
        for drawing in drawings.drawings:
            for area in drawing.areas:
                area.pixels(drawing.size)
    except LabelFileError as error:
        refused.append(str(error))
    assert all(path.name in message for message in refused)
