"""Collectives are counted in the text of a compiled program, whichever compiler wrote it."""

import pytest

from semiseg_jax.engine.collectives import collectives

LINES = {
    "a sum": (
        """
        %x = f32[100]{0} parameter(0)
        ROOT %all-reduce.3 = f32[100]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add.1
        """,
        {"all-reduce": (1, 400)},
    ),
    "several arrays in one sum, whose scalar is counted too": (
        "  %r = (f32[3,2]{1,0}, bf16[5]{0}, /*index=2*/s32[]) all-reduce(%a, %b, %c), to_apply=%add",
        {"all-reduce": (1, 24 + 10 + 4)},
    ),
    "a sum that starts and ends": (
        """
        %p = f32[8,128]{1,0:T(8,128)} parameter(0)
        %s = f32[8,128]{1,0:T(8,128)S(1)} all-reduce-start(%p), replica_groups=[1,8]<=[8]
        %d = f32[8,128]{1,0:T(8,128)} all-reduce-done(%s)
        """,
        {"all-reduce": (1, 4096)},
    ),
    "what is gathered, not what is given": (
        """
        %p = f32[4]{0} parameter(0)
        %g = f32[8]{0} all-gather(%p), dimensions={0}
        %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
        %d = f32[8]{0} all-gather-done(%s)
        """,
        {"all-gather": (2, 64)},
    ),
    "what is summed, not what is left of it": (
        """
        %p = bf16[8]{0:T(256)(128)(2,1)} parameter(0)
        %g = bf16[4]{0:T(256)(128)(2,1)} reduce-scatter(%p), dimensions={0}, to_apply=%add
        """,
        {"reduce-scatter": (1, 16)},
    ),
    "nothing": ('%f = f32[4]{0} fusion(%p), metadata={op_name="jit(step)/all-reduce(x)"}', {}),
}


@pytest.mark.parametrize("what", LINES)
def test_collectives_are_counted_with_the_bytes_of_whole_arrays(what):
    text, expected = LINES[what]
    assert collectives(f"HloModule jit_step\n{text}") == expected
