"""The numbers that families are held to are themselves the library's output, term by term."""

import pytest
import torch

from pipeline.models.families import FAMILIES
from tests.families.hooks import golden
from tests.families.layers import Taps
from tests.families.zoo import ZOO

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def pictures(size: tuple[int, int], count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ZOO)
def test_terms_from_hooks_sum_to_the_librarys_own_output(name):
    member = ZOO[name]
    visual, images = member.visual(member.build().double()), pictures(member.size)
    found = golden(visual, images)
    wanted = visual(images)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    torch.testing.assert_close(found.sum(), wanted, **EXACT)
    if found.u_blhk.shape[2]:
        layer, head = found.u_blhk.shape[1] - 1, found.u_blhk.shape[2] - 1
        u_bk = found.values(layer, head).sum(1)
        torch.testing.assert_close(u_bk, found.u_blhk[:, layer, head], **EXACT)
        # A term that wrote nothing could be left out unseen.
        assert found.heads_blhe.norm(dim=-1).min() > 1e-3 * wanted.norm(dim=-1).max()
        tokens = found.tokens_bte().sum(1)
        torch.testing.assert_close(tokens, found.heads_blhe.sum((1, 2)), **EXACT)


@pytest.mark.parametrize("name", ZOO)
def test_no_weight_of_the_zoo_is_trivial(name):
    for of, values in ZOO[name].build().named_parameters():
        if values.ndim:  # the temperature has none
            assert values.float().std() > 0.05 or values.numel() == 1, of


def test_taps_see_what_goes_in_before_it_is_changed():
    part = torch.nn.ReLU(inplace=True)
    taps = Taps(torch.nn.Sequential(part), torch.tensor([[-1.0, 2.0]]))
    assert taps.before[part].tolist() == [[-1.0, 2.0]]
    assert taps.after[part].tolist() == [[0.0, 2.0]]


def test_every_family_is_in_the_zoo():
    there = {member.family for member in ZOO.values()}
    own = {name for name in FAMILIES if name.startswith("microworld")}  # their weights are here
    assert set(FAMILIES) - own <= there
