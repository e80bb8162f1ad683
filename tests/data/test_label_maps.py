"""Files of label maps give the values that stand in them."""

import struct
import zlib

import numpy as np
import pytest

from semiseg_jax.data.label_maps import _read
from semiseg_jax.data.tfds_mappings import read_values


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits a pixel."""
    height, width = values.shape
    each = 8 // bits
    padded = np.pad(values, [(0, 0), (0, -width % each)]).reshape(height, -1, each)
    packed = sum(padded[..., i].astype(np.uint8) << (8 - bits * (i + 1)) for i in range(each)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_pngs_of_few_bits_are_not_stretched(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 7)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(grey_png(values, bits))
    np.testing.assert_array_equal(_read(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(read_values(grey_png(values, bits)), values)
