"""The packed runs in which Label Studio keeps what was painted with a brush: RGBA values of all pixels, row by row.

Bits, highest first: 32 say how many values follow; 5 how many bits a value has, less one; four times 4 how many bits
the length of a run has, less one. Then runs: 1 bit whether one value is repeated, 2 bits which of the four widths its
length has, the length less one, and the value or the values.
"""

import numpy as np

from semiseg_jax.exchange.drawings import LabelFileError, Size


def decode_alpha(packed: bytes, what: str, size: Size) -> np.ndarray:
    """[H,W] bool: pixels that the brush covers at least half.

    The edge of a brush is smooth, so a pixel counts if its alpha is above half of the largest one of the region.
    """
    bits = _Bits(packed, what)
    count, height, width = bits.take(32), *size
    if count != height * width * 4:
        raise LabelFileError(
            f"{what}: rle holds {count} values, but an image of {width}x{height} has {height * width * 4}"
        )
    value_bits = bits.take(5) + 1
    length_bits = [bits.take(4) + 1 for _ in range(4)]
    alpha = np.zeros(height * width, np.min_scalar_type((1 << value_bits) - 1))
    at = 0
    while at < count:
        repeated = bits.take(1)
        end = at + 1 + bits.take(length_bits[bits.take(2)])
        if end > count:
            raise LabelFileError(f"{what}: rle runs over the end of the image")
        if repeated:
            alpha[at // 4 : end // 4] = bits.take(value_bits)  # those pixels whose fourth value is in the run
        else:
            for place in range(at, end):
                value = bits.take(value_bits)
                if place % 4 == 3:
                    alpha[place // 4] = value
        at = end
    return (alpha > alpha.max() // 2).reshape(size)


class _Bits:
    """Reads bytes bit by bit."""

    def __init__(self, packed: bytes, what: str):
        self.packed, self.what, self.at = packed, what, 0

    def take(self, count: int) -> int:
        """The next bits, 32 at most, as a number."""
        end = self.at + count
        if end > 8 * len(self.packed):
            raise LabelFileError(f"{self.what}: rle ends before the image does")
        first, last = self.at // 8, -(-end // 8)
        self.at = end
        return int.from_bytes(self.packed[first:last]) >> (8 * last - end) & ((1 << count) - 1)
