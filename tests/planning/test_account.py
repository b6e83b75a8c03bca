"""The account of a compiled program, on programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxml.planning.account import Collective, account
from jaxml.planning.hlo import parse

LOOP = """HloModule small, is_scheduled=true

%fused (p.0: f32[8,128], p.1: f32[8,128]) -> f32[8,128] {
  %p.0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.1 = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%p.0, %p.1), metadata={op_name="jit(f)/jvp(network)/add"}
}

%taken (q.0: f32[1000,128], q.1: s32[4]) -> f32[4,128] {
  %q.0 = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %q.1 = s32[4]{0} parameter(1)
  ROOT %rows = f32[4,128]{1,0} gather(%q.0, %q.1), offset_dims={1}, slice_sizes={1,128}
}

%body (b: (s32[], f32[8,128], f32[1000,128], s32[4], s32[])) -> (s32[], f32[8,128], f32[1000,128], s32[4], s32[]) {
  %b = (s32[], f32[8,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, s32[4]{0:T(128)S(1)}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %table = f32[1000,128]{1,0:T(8,128)} get-tuple-element(%b), index=2
  %places = s32[4]{0:T(128)S(1)} get-tuple-element(%b), index=3
  %limit = s32[] get-tuple-element(%b), index=4
  %near = f32[8,128]{1,0:T(8,128)S(1)} broadcast(%i), dimensions={}
  %y = f32[8,128]{1,0:T(8,128)} fusion(%x, %near), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/jvp(network)/add"}
  %some = f32[4,128]{1,0:T(8,128)S(1)} fusion(%table, %places), kind=kCustom, calls=%taken, metadata={op_name="jit(f)/loss/gather"}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, s32[4]{0:T(128)S(1)}, s32[]) tuple(%next, %y, %table, %places, %limit)
}

%test (c: (s32[], f32[8,128], f32[1000,128], s32[4], s32[])) -> pred[] {
  %c = (s32[], f32[8,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, s32[4]{0:T(128)S(1)}, s32[]) parameter(0)
  %turn = s32[] get-tuple-element(%c), index=0
  %end = s32[] get-tuple-element(%c), index=4
  ROOT %less = pred[] compare(%turn, %end), direction=LT
}

ENTRY %main (a: f32[8,128], b: f32[1000,128], c: s32[4]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b.1 = f32[1000,128]{1,0:T(8,128)} parameter(1)
  %c.1 = s32[4]{0:T(128)S(1)} parameter(2)
  %zero = s32[] constant(2)
  %seven = s32[] constant(7)
  %kept = s32[] copy(%seven)
  %start = (s32[], f32[8,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, s32[4]{0:T(128)S(1)}, s32[]) tuple(%zero, %a, %b.1, %c.1, /*index=4*/%kept)
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, s32[4]{0:T(128)S(1)}, s32[]) while(%start), condition=%test, body=%body
  ROOT %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""

COLLECTIVES = """HloModule collectives

%plus (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %s = f32[] add(%l, %r)
}

ENTRY %main (a: bf16[16,256], b: bf16[256,32]) -> f32[16,32] {
  %a = bf16[16,256]{1,0} parameter(0)
  %b = bf16[256,32]{1,0} parameter(1)
  %product = f32[16,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/transpose(jvp(network))/dot"}
  %all = f32[64,32]{1,0} all-gather(%product), replica_groups={{0,1,2,3}}, dimensions={0}
  %sum = f32[16,32]{1,0} all-reduce(%product), replica_groups=[2,4]<=[8], to_apply=%plus, metadata={op_name="jit(f)/update/psum"}
  %part = f32[4,32]{1,0} reduce-scatter(%product), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%plus
  %alone = f32[16,32]{1,0} all-reduce(%product), replica_groups={{0},{1}}, to_apply=%plus
  ROOT %copy.1 = f32[16,32]{1,0} copy(%sum)
}
"""
ROW = 128 * 4


def test_a_loop_counts_as_often_as_it_turns():
    found = account(parse(LOOP))
    # Five turns: a block is read and written, and the counter's four bytes; the other operand lies in VMEM.
    assert found.hbm_bytes["network"] == 5 * (2 * 8 * ROW + 4)
    # Four rows of a thousand are read; where they go and the places lie in VMEM.
    assert found.hbm_bytes["loss"] == 5 * 4 * ROW
    assert (found.gathers_in_loops, found.scatters_in_loops, found.open_loops) == (1, 0, 0)


def test_what_the_compiler_adds_belongs_to_who_uses_it():
    """A copy into a loop has no name of its own, and counts for the part that reads it in the loop."""
    text = LOOP.replace(
        "  %start = ", "  %moved = f32[1000,128]{1,0:T(8,128)} copy(%b.1)\n  %start = "
    ).replace("%a, %b.1, %c.1,", "%a, %moved, %c.1,")
    assert account(parse(text)).hbm_bytes["loss"] == 5 * 4 * ROW + 2 * 1000 * ROW


def test_a_loop_of_one_turn_is_none():
    found = account(parse(LOOP.replace("constant(7)", "constant(3)")))
    assert found.hbm_bytes["loss"] == 4 * ROW
    assert found.gathers_in_loops == 0


def test_a_loop_that_the_data_end_counts_once_and_is_said():
    text = LOOP.replace("%kept = s32[] copy(%seven)", "%kept = s32[] parameter(3)")
    found = account(parse(text))
    assert found.hbm_bytes["network"] == 2 * 8 * ROW + 4
    assert found.open_loops == 1


def test_a_limit_that_changes_in_the_loop_is_not_known():
    found = account(parse(LOOP.replace("%places, %limit)", "%places, %next)")))
    assert found.open_loops == 1


def test_collectives_and_products():
    found = account(parse(COLLECTIVES), devices=8)
    assert found.operations == {"network": {"bfloat16": 2 * 16 * 32 * 256}}
    assert found.collectives == {
        "all-gather": Collective(1, 64 * 32 * 4),
        "all-reduce": Collective(1, 16 * 32 * 4),
        "reduce-scatter": Collective(1, 4 * 32 * 4),
    }
    # Of four devices each sends three quarters of what is gathered, and of a sum twice that.
    assert found.link_bytes == 0.75 * 64 * 32 * 4 + 2 * 0.75 * 16 * 32 * 4 + 3 * 4 * 32 * 4


def test_collectives_that_run_beside_others():
    text = """HloModule asynchronous

%scatter (p: f32[64,32]) -> f32[16,32] {
  %p = f32[64,32]{1,0} parameter(0)
  ROOT %part = f32[16,32]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%plus
}

ENTRY %main (a: f32[64,32]) -> f32[16,32] {
  %a = f32[64,32]{1,0} parameter(0)
  %all = ((f32[64,32]{1,0}), (f32[256,32]{1,0})) all-gather-start(%a), replica_groups={{0,1,2,3}}, dimensions={0}
  %rows = f32[256,32]{1,0} all-gather-done(%all)
  %begun = ((f32[64,32]{1,0}), f32[16,32]{1,0}, u32[]) async-start(%a), calls=%scatter
  ROOT %done = f32[16,32]{1,0} async-done(%begun)
}
"""
    found = account(parse(text), devices=4)
    part = 16 * 32 * 4
    assert found.collectives == {
        "all-gather": Collective(1, 16 * part),
        "reduce-scatter": Collective(1, part),
    }
    # Each is started once: operands are read and results written.
    assert sum(found.hbm_bytes.values()) == (4 + 16) * part + (4 + 1) * part


def test_buffers_are_filled_up_to_tiles_and_lie_in_memories():
    (buffer,) = parse(
        "ENTRY %main (a: bf16[3,5,200]) -> bf16[3,5,200] {\n"
        "  ROOT %a = bf16[3,5,200]{2,0,1:T(8,128)(2,1)S(1)} parameter(0)\n}\n"
    ).entry.root.buffers
    assert (buffer.size, buffer.stored, buffer.in_main_memory) == (3 * 5 * 200 * 2, 8 * 5 * 256 * 2, 0)


def test_a_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("nothing")


def test_products_in_a_loop_of_jax():
    """What XLA compiles on this machine, where the product may be any of three instructions."""

    def f(x, y):
        return jax.lax.fori_loop(0, 6, lambda _, x: x @ y, x)

    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    found = account(parse(jax.jit(f).lower(square, square).compile().as_text()))
    assert found.precisions == {"float32": 6 * 2 * 64**3}


def test_a_convolution_counts_no_padding():
    def f(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 4))]
    found = account(parse(jax.jit(f).lower(*shapes).compile().as_text()))
    # Along an axis of 8 a kernel of 3 meets 3 * 8 - 2 pixels.
    assert found.precisions == {"float32": 2 * 2 * 3 * 4 * 22 * 22}


CUDNN = """HloModule cudnn

ENTRY %main (x: f32[2,8,8,3], k: f32[4,3,3,3], y: f32[2,6,6,4]) -> f32[2,6,6,4] {
  %x = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[4,3,3,3]{3,2,1,0} parameter(1)
  %y = f32[2,6,6,4]{3,2,1,0} parameter(2)
  %forward = (f32[2,6,6,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %of_input = (f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %of_kernel = (f32[4,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %out = f32[2,6,6,4]{3,2,1,0} get-tuple-element(%forward), index=0
}
"""


def test_gradients_of_a_convolution_take_as_many_operations_as_it():
    once = 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)
    assert account(parse(CUDNN)).precisions == {"float32": 3 * once}
