"""Blocks that run one after another, each making what the next begins with."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.models.mlps import PlainMlp
from pipeline.models.postnorm import PostNormBlock
from pipeline.models.prenorm import PreNormBlock
from pipeline.models.reading import ClassToken, Mean
from pipeline.models.tower import neurons, through

HEADS, HEAD_DIM, WIDTH = 2, 3, 8


class Counted(nn.LayerNorm):
    """A LayerNorm that knows how often it ran."""

    ran = 0

    def forward(self, x):
        self.ran += 1
        return super().forward(x)


def block(kind, reading, dtype, last):
    def linear(out, size):
        return torch.randn(out, size).double(), torch.randn(out).double()

    inner = HEADS * HEAD_DIM
    return kind(
        heads=HEADS, head_dim=HEAD_DIM, dtype=dtype, last=last, reading=reading,
        norms=(Counted(WIDTH).double(), Counted(WIDTH).double()),
        qkv=linear(3 * inner, WIDTH), out=linear(WIDTH, inner),
        mlp=PlainMlp(linear(12, WIDTH), nn.GELU(), linear(WIDTH, 12)),
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([PreNormBlock, PostNormBlock]), max_size=4),
    reading=st.sampled_from([ClassToken(), Mean(1)]),
    dtype=st.sampled_from([torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@torch.inference_mode()
def test_the_same_as_block_by_block(kinds, reading, dtype, seed):
    torch.manual_seed(seed)
    blocks = [block(kind, reading, dtype, i == len(kinds) - 1) for i, kind in enumerate(kinds)]
    given = torch.randn(2, 5, WIDTH).double()
    expected = given.clone()
    for each in blocks:
        expected = each.rest(expected, each.attention(expected)).stream_btd
    norms = [norm for each in blocks for norm in vars(each).values() if isinstance(norm, Counted)]
    assert [norm.ran for norm in norms] == [1] * len(norms)
    assert torch.equal(through(blocks, given), expected)
    assert [norm.ran for norm in norms] == [2] * len(norms)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from([PreNormBlock, PostNormBlock]),
    reading=st.sampled_from([ClassToken(), Mean(1)]),
    last=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@torch.inference_mode()
def test_neurons_are_those_of_the_parts(kind, reading, last, dtype, seed):
    torch.manual_seed(seed)
    made, x_btd = block(kind, reading, dtype, last), torch.randn(2, 5, WIDTH).double()
    behind = None if last else block(PreNormBlock, reading, dtype, True)
    given = x_btd.clone()
    expected = neurons(made, given, made.attention(given))
    given = x_btd.clone()
    found = made.neurons(given, made.attention(given), behind)
    whole = made.rest(x_btd, made.attention(x_btd), behind)
    for name in ("stream_btd", "u_bd", "hidden_btn", "written_btd"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(whole.stream_btd, expected.stream_btd)
    if behind is not None:
        keys = [behind.attention(expected.stream_btd, n).keys for n in (None, whole.normed_btd)]
        assert torch.equal(*keys)
        assert found.normed_btd is not None or kind is PostNormBlock
