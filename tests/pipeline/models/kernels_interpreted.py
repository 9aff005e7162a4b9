"""The kernel of a GPU gives what the equation and the plain operations give.

For a process that has Triton's interpreter from the start; ``test_kernels.py`` starts it.
"""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.models import norms
from pipeline.models.kernels import norm_rows, quick_gelu_


def random_norm(kind, width, bias, eps):
    further = {"bias": bias} if kind is nn.LayerNorm else {}
    norm = kind(width, eps=eps, **further)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.requires_grad_(False)


def exact(norm, x_btd):
    """From the equation, in NumPy's float64."""
    x = x_btd.double().numpy()
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps) * norm.weight.double().numpy()
    bias = getattr(norm, "bias", None)
    return x if bias is None else x + bias.double().numpy()


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([nn.LayerNorm, nn.RMSNorm]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 130)),
    carried=st.integers(1, 5),
    written=st.sampled_from([None, torch.bfloat16, torch.float16, torch.float32]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    bias=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 0.1]),
    seed=st.integers(0, 99),
)
def test_kernel_is_the_equation(kind, shape, carried, written, dtype, bias, eps, seed):
    torch.manual_seed(seed)
    norm = random_norm(kind, shape[-1], bias, eps)
    whole_btd = 3 * torch.randn(shape) + torch.randn(shape[-1])
    held_btd, x_btd = whole_btd.clone(), whole_btd[:, :carried]  # its rows need not lie together
    summed_btd, added_btd = x_btd.clone(), None
    if written is not None:
        added_btd = torch.randn(x_btd.shape).to(written)
        summed_btd += added_btd
    found_btd = norm_rows(norm, x_btd, added_btd, dtype)
    torch.testing.assert_close(x_btd, summed_btd, rtol=0, atol=0)
    torch.testing.assert_close(whole_btd[:, carried:], held_btd[:, carried:], rtol=0, atol=0)
    assert found_btd.dtype == dtype
    wanted = exact(norm, summed_btd)
    # One unit of the last bit, and what float32 loses where a mean is taken off.
    error = np.abs(found_btd.double().numpy() - wanted)
    assert (error <= torch.finfo(dtype).eps * np.abs(wanted) + 2e-5).all()


def test_the_plain_operations_are_the_equation():
    norm, x_btd, written_btd = nn.LayerNorm(7), torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    found = norms.normed(norm, x_btd, torch.float32)
    assert torch.equal(found, norm(x_btd))
    summed_btd = x_btd + written_btd
    found = norms.add_normed(norm, x_btd, written_btd, torch.bfloat16)
    assert torch.equal(found, norm(summed_btd).bfloat16())
    assert torch.equal(x_btd, summed_btd)
    kernel = norm_rows(norm, x_btd, None, torch.bfloat16)
    torch.testing.assert_close(kernel, found, rtol=2**-7, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), max_size=4),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    seed=st.integers(0, 99),
)
def test_quick_gelu_is_the_equation(shape, dtype, seed):
    torch.manual_seed(seed)
    x = (4 * torch.randn(shape)).to(dtype)
    given = x.double().numpy()
    wanted = given / (1 + np.exp(-1.702 * given))
    found = quick_gelu_(x)
    assert found is x
    error = np.abs(found.double().numpy() - wanted)
    assert (error <= torch.finfo(dtype).eps * np.abs(wanted) + 1e-6).all()
