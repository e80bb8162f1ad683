"""Broken files, made of whole ones; EXAMPLES=10000 pytest -m heavy tests/exchange tests/data tries more of them."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from semiseg_jax.exchange.drawings import LabelFileError

EXAMPLES = int(os.environ.get("EXAMPLES", "200"))
MANY = settings(
    max_examples=EXAMPLES,
    derandomize="EXAMPLES" not in os.environ,  # the same ones each time, so that only a change makes a run fail
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [0, -1, 1.5, 10**30, 1e300, float("nan"), float("inf"), "", "\ud800", "\0", "1" * 50, "../x", "oooo"]
    ),
    st.text(max_size=8),
)
ANYTHING = st.recursive(
    STRANGE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@st.composite
def damaged(draw, content):
    """Bytes with some replaced, removed, repeated or inserted."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        other = draw(st.binary(max_size=4) | st.sampled_from([b"\0", b"[", b"}", b"<!DOCTYPE a>", b"9" * 30, b"&lt;"]))
        data[place : place + draw(st.sampled_from([0, 0, 1, 4, 40]))] = other
    return bytes(data)


def replaced(content, strange, random):
    """A JSON value with one of the strange values in some places, and some places gone."""
    if random.random() < 0.03:
        return random.choice(strange)
    if isinstance(content, dict):
        return {key: replaced(value, strange, random) for key, value in content.items() if random.random() > 0.01}
    if isinstance(content, list):
        return [replaced(value, strange, random) for value in content if random.random() > 0.01]
    return content


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
