"""Maps that lie where the picture is, and those that do not."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.rosetta.families import Loaded
from pipeline.rosetta.maps import MapError, Tokens
from pipeline.rosetta.models import latents, left_out_words, load_units
from pipeline.rosetta.probe import MARGIN, placed, probe_generator, probe_pictures
from storage.errors import NotFinite
from tests.pipeline.rosetta.kit import seeded, square

SIDE = 8
GRID = (SIDE, SIDE)


def local(height: int = SIDE, width: int = SIDE, units: int = 6) -> torch.Tensor:
    """Changes (4, height, width, units) about the quarters' middles, and a little all over."""
    rows, columns = (torch.arange(n) + 0.5 for n in (height, width))
    places = [(y * height, x * width) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    bumps = [
        torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / (height + width) * 2)
        for y, x in places
    ]
    noise = torch.rand(4, height, width, units, generator=torch.Generator().manual_seed(0))
    return torch.stack(bumps)[..., None] + 0.2 * noise


def windows(maps: torch.Tensor) -> torch.Tensor:
    """(b, h, w, u) with the tokens of each window of 4 × 4 beside each other."""
    batch, height, width, units = maps.shape
    cut = maps.view(batch, height // 4, 4, width // 4, 4, units).permute(0, 1, 3, 2, 4, 5)
    return cut.reshape(maps.shape)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m * torch.tensor([1, 50, 1, 0.02])[:, None, None, None],  # a strong picture
        lambda m: m * torch.tensor([1, 1000, 1, 1, 1, 1]),  # a strong unit, alike in all places
        lambda m: m + 9 * F.one_hot(torch.tensor(9), 64).view(*GRID, 1),  # one place always moves
        lambda m: m.roll(1, 1),  # off by one row
        lambda m: m[:, :2, :2],  # of a 2 × 2 map
        lambda m: torch.zeros_like(m),
        lambda m: m.mean((1, 2), keepdim=True),
        lambda m: m * torch.tensor([0, 1, 1, 1])[:, None, None, None],  # one change shows nowhere
    ],
)
def test_local_changes_lie_right(change: Callable[[torch.Tensor], torch.Tensor]):
    maps = local(2, 2) if change(local()).shape[1] == 2 else local()
    assert placed(change(maps)) > 1.3


@pytest.mark.parametrize("size", [(1, 9), (7, 1), (3, 5), (2, 4)])
def test_maps_of_any_size(size):
    changes = local(*size)
    assert placed(changes) > 1.3
    assert placed(changes.flip(1 + (size[0] == 1))) < 1 / 1.3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.transpose(1, 2),
        lambda m: m.flip(1),
        lambda m: m.flip(2),
        lambda m: m.flip(1, 2),
        lambda m: m.roll((4, 4), (1, 2)),
        lambda m: m.roll(3, 2),
        windows,
        lambda m: m.mean((1, 2), keepdim=True).expand_as(m),
        lambda m: m.transpose(2, 3),
        lambda m: m.reshape(4, 1, 64, 6),
        lambda m: m.reshape(4, 4, 16, 6),
    ],
)
def test_changes_elsewhere_or_alike_do_not_lie_right(wrong):
    assert placed(wrong(local())) < MARGIN


class Turned(nn.Module):
    """One activation over patches of 4 pixels, whose positions are put otherwise for it."""

    def __init__(self, order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.patch, self.act, self.order = nn.Conv2d(3, 12, 4, 4), nn.GELU(), order
        self.head = nn.Linear(12, 2)  # beside the activation, as in a transformer's block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.order(self.patch(x).permute(0, 2, 3, 1))).flatten(1)


def turned(order, size=(32, 32), layers=("act",), **given):
    module = seeded(lambda: Turned(order), 0).eval().requires_grad_(False)
    noise = latents([0, 1], 3 * size[0] * size[1]).view(-1, 3, *size)
    return probe_pictures(module, noise, list(layers), **{"chosen": True, **given})


@pytest.mark.parametrize(
    ("order", "size", "shape"),
    [
        (lambda m: m, (32, 32), (12, 8, 8)),
        (lambda m: m.permute(0, 3, 1, 2), (32, 32), (12, 8, 8)),
        (lambda m: m, (32, 48), (12, 8, 12)),  # no two sizes tell where the channels are
        (lambda m: m.permute(0, 3, 1, 2), (48, 32), (12, 12, 8)),
        (lambda m: m, (48, 48), (12, 12, 12)),
        (lambda m: m.flatten(1, 2), (32, 32), (12, 8, 8)),
        (lambda m: F.pad(m.flatten(1, 2), (0, 0, 1, 0)), (32, 32), (12, 8, 8)),
        (lambda m: m[:, 1:2], (32, 32), (12, 1, 8)),
    ],
)
def test_positions_are_found_wherever_the_channels_are(order, size, shape):
    assert turned(order, size).shapes == {"act": shape}


@pytest.mark.parametrize(
    "order",
    [
        lambda m: m.transpose(1, 2).flatten(1, 2),  # column by column
        lambda m: windows(m).flatten(1, 2),
        lambda m: windows(m).reshape(len(m), 4, 16, 12),
        lambda m: m.flatten(1, 2).transpose(1, 2)[:, :9].repeat(1, 1, 2),  # channels as tokens
        lambda m: m.mean((1, 2), keepdim=True).expand(-1, 8, 8, -1),
    ],
)
def test_other_orders_are_refused_or_left_out(order):
    with pytest.raises(MapError, match="layer act is not where the picture is"):
        turned(order)
    left_out = turned(order, chosen=False).left_out
    assert list(left_out) == ["act"]
    assert "1 layer(s) left out (act): is not where" in left_out_words(left_out)[0]


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_declared_class_token_may_join_later(prefix):
    module = seeded(lambda: Turned(lambda m: F.pad(m.flatten(1, 2), (0, 0, prefix, 0))), 0)
    module.grid_size = (4, 16)  # a class token is understood
    noise = latents([0, 1], 3 * 16 * 64).view(-1, 3, 16, 64)
    found = probe_pictures(module.requires_grad_(False), noise, ["act"], chosen=True)
    assert found.shapes == {"act": (12, 4, 16)}
    assert found.readers["act"].tokens == Tokens((4, 16), prefix)


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(MapError, match="layer act gives 7 tokens, which .* are no square"):
        turned(lambda m: m.flatten(1, 2)[:, :7])


def test_what_is_not_finite_is_refused_in_any_layer():
    with pytest.raises(NotFinite, match="layer act gives values that are not finite"):
        turned(lambda m: m.log(), chosen=False)


class Drawer(nn.Module):
    """A generator whose one activation's maps are put otherwise before they are drawn."""

    def __init__(self, order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.start, self.act, self.draw = nn.Linear(5, 192), nn.GELU(), nn.Conv2d(12, 3, 1)
        self.order = order

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        maps = self.order(self.act(self.start(z).view(-1, 4, 4, 12)))
        return F.interpolate(self.draw(maps.permute(0, 3, 1, 2)), scale_factor=4).tanh()


def drawn(order):
    module = seeded(lambda: Drawer(order), 0).eval().requires_grad_(False)
    return probe_generator(module, latents([0, 1], 5), ["act"], chosen=True)


def test_generators_are_asked_the_other_way_round():
    found = drawn(lambda m: m)
    assert found.shapes == {"act": (12, 4, 4)}
    assert found.readers["act"].kind == "last"
    assert found.output.shape == (8, 3, 16, 16)
    for wrong in (lambda m: m.transpose(1, 2), lambda m: m.flip(1)):
        with pytest.raises(MapError, match="not where the picture is"):
            drawn(wrong)


def test_a_generator_without_gradients_is_believed():
    assert drawn(lambda m: m.detach().flip(1)).shapes == {"act": (12, 4, 4)}


def test_token_orders_of_hiera_are_left_out_and_said():
    model = load_units("timm:hiera_tiny_224/none")
    assert [x.name for x in model.card.layers] == ["blocks.10.mlp.act", "blocks.11.mlp.act"]
    assert len(model.left_out) == 10
    (words,) = left_out_words(model.left_out)
    assert words.startswith(
        "10 layer(s) left out (blocks.0.mlp.act, blocks.1.mlp.act, blocks.2.mlp.act and 7 more): "
    )


def test_a_model_whose_maps_all_lie_elsewhere_is_refused_with_the_reason():
    with pytest.raises(MapError, match=r"1 layer\(s\) left out \(act\): is not where"):
        load_units("import:tests.pipeline.rosetta.test_probe:transposed")
    with pytest.raises(MapError, match="test_probe:transposed@a.*: layer act is not where"):
        load_units("import:tests.pipeline.rosetta.test_probe:transposed@a*")


def transposed() -> Loaded:
    return Loaded(seeded(lambda: Turned(lambda m: m.transpose(1, 2)), 0), square(32))


def test_the_same_weights_give_the_same_layers():
    cards = [load_units("timm:test_vit/none").card for _ in range(3)]
    assert all(a == b for a, b in pairwise(cards))
