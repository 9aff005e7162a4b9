"""What norms are folded into gives what it gave."""

import pytest
import torch
from timm.layers import RmsNorm
from torch import nn

from pipeline.models.norms import Divided, fold_behind, inverse_std


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, RmsNorm])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_norm_joins_the_layer_behind_it(kind, bias):
    norm, linear = kind(6, eps=0.1).double(), nn.Linear(6, 4, bias=bias).double()
    for parameter in norm.parameters():
        parameter.normal_()
    x = torch.randn(5, 6, dtype=torch.float64)
    wanted, scale = linear(norm(x)), inverse_std(norm, x)
    left = fold_behind(norm, linear)
    torch.testing.assert_close(linear(left(x)), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left(x), x * scale[:, None])
    assert isinstance(left, Divided)
    held = linear.weight.clone()
    assert fold_behind(left, linear) is left  # nothing is left to be folded
    torch.testing.assert_close(linear.weight, held, rtol=0, atol=0)


def test_no_norm_is_left_alone():
    none, linear = nn.Identity(), nn.Linear(3, 3)
    assert fold_behind(none, linear) is none
