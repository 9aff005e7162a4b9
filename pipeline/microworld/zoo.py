"""The embedded zoo: small models of three kinds, trained on the embedded world's pictures.

``cnn`` is a timm ResNet whose one classifier holds the classes of several attributes,
``mae`` a masked autoencoder around a timm ViT, ``generator`` a decoder from a Gaussian
latent to a picture. Their layers carry plain names: ``layer2``, ``blocks.1``, ``up3``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from pipeline.lean import timm
from storage.errors import FacetError

from .cards import WEIGHTS, card_of
from .world import ATTRIBUTES, CLASSIFIED, SIDE

vision_transformer = timm.models.vision_transformer

ZOO = ("cnn", "mae", "generator")

# One preprocessing for all three, so that the generator's pictures fit the others as they are.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


class ZooError(FacetError):
    """A zoo model does not exist, is not there or is damaged."""


def prepare(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pictures in 0 … 255 to the float32 in -1 … 1 that the zoo's models take."""
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


class Cnn(timm.models.resnet.ResNet):
    """timm's ResNet of basic blocks without the stem's pooling.

    ``layer1`` … ``layer4`` give maps of 32, 16, 8 and 4 positions a side; the output is
    (n, 30): the classes of ``CLASSIFIED`` side by side.
    """

    def __init__(self, layers: Sequence[int], channels: Sequence[int]) -> None:
        classes = sum(len(ATTRIBUTES[name]) for name in CLASSIFIED)
        super().__init__(
            timm.models.resnet.BasicBlock,  # type: ignore[arg-type]  # timm means the class
            layers=tuple(layers),
            channels=tuple(channels),
            stem_width=channels[0],
            num_classes=classes,
        )
        self.maxpool = nn.Sequential()  # pooled, a 64-pixel picture would leave too little

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps after the stem and after ``layer1`` … ``layer4``."""
        maps = [self.act1(self.bn1(self.conv1(images)))]
        for name in ("layer1", "layer2", "layer3", "layer4"):
            maps.append(self.get_submodule(name)(maps[-1]))
        return maps


def logits_of(output: torch.Tensor) -> dict[str, torch.Tensor]:
    """The CNN's output (n, 30) by attribute: (n, classes of the attribute) each."""
    sizes = [len(ATTRIBUTES[name]) for name in CLASSIFIED]
    return dict(zip(CLASSIFIED, output.split(sizes, dim=1), strict=True))


class Encoder(vision_transformer.VisionTransformer):
    """A ViT (timm) whose output is the mean of its patch tokens (n, width), each normed."""

    def __init__(self, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__(
            img_size=SIDE, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads,
            num_classes=0, class_token=False, global_pool="avg", fc_norm=False,
        )  # fmt: skip


class MaskedAutoencoder(Encoder):
    """An encoder that also rebuilds pictures from some of their patches.

    Calling it gives the mean of the patch tokens (n, width), with nothing masked.
    Source: He et al. 2022, section 3.
    """

    def __init__(
        self, patch: int, width: int, depth: int, heads: int, decoder_width: int, decoder_depth: int
    ) -> None:
        super().__init__(patch, width, depth, heads)
        self.patch = patch
        self.decoder_in = nn.Linear(width, decoder_width)
        self.decoder_mask = nn.Parameter(torch.zeros(decoder_width))
        patches = (SIDE // patch) ** 2
        self.decoder_place = nn.Parameter(0.02 * torch.randn(patches, decoder_width))
        self.decoder_blocks = nn.ModuleList(
            vision_transformer.Block(decoder_width, heads, qkv_bias=True)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.decoder_out = nn.Linear(decoder_width, 3 * patch**2)

    def patches_of(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (n, 3, 64, 64) as normalised patches (n, patches, 3·patch²)."""
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        spread, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (spread + 1e-4).sqrt()

    def rebuild(self, images: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Every patch, normalised, from the seen ones.

        Parameters
        ----------
        images : (n, 3, 64, 64) float32
        seen : (n, kept) int64
            Numbers of the patches that the encoder sees, other ones for every picture.

        Returns
        -------
        (n, patches, 3·patch²) float32
        """
        tokens = self.patch_embed(images) + self.pos_embed
        index = seen[..., None]
        tokens = tokens.gather(1, index.expand(-1, -1, tokens.shape[-1]))
        shown = self.decoder_in(self.norm(self.blocks(tokens)))
        hidden = self.decoder_mask.to(shown.dtype).expand(len(images), len(self.decoder_place), -1)
        full = hidden.scatter(1, index.expand(-1, -1, shown.shape[-1]), shown) + self.decoder_place
        for block in self.decoder_blocks:
            full = block(full)
        return self.decoder_out(self.decoder_norm(full))


class Up(nn.Sequential):
    """Twice the side, then two convolutions with ReLU; the output is after the ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )


class Coupling(nn.Module):
    """An affine coupling: half of the numbers move the other half, then the halves swap.

    Source: Dinh et al. 2017, section 3.2.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, size)
        nn.init.zeros_(last.weight)
        self.net = nn.Sequential(
            nn.Linear(size // 2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
        )

    def _move(self, still: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = self.net(still).chunk(2, dim=1)
        return scale.tanh(), shift

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        still, moved = u.chunk(2, dim=1)
        scale, shift = self._move(still)
        return torch.cat([moved * scale.exp() + shift, still], dim=1)

    def inverse(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What ``forward`` got (n, size), and the log-determinant (n,) of the way back."""
        moved, still = v.chunk(2, dim=1)
        scale, shift = self._move(still)
        return torch.cat([still, (moved - shift) * (-scale).exp()], dim=1), -scale.sum(1)


class Generator(nn.Module):
    """Standard normal latents (n, latent) to pictures (n, 3, 64, 64) in -1 … 1.

    ``flow`` bends the latents into the codes that pictures have; ``start``, ``up1``, ``up2``,
    ``up3`` give maps of 4, 8, 16 and 32 positions a side, after their ReLU; ``out`` paints
    four pixels for each of the last ones.
    """

    def __init__(self, latent: int, channels: Sequence[int], couplings: int, hidden: int) -> None:
        super().__init__()
        c0, c1, c2, c3 = channels
        self.latent = latent
        self.flow = nn.Sequential(*(Coupling(latent, hidden) for _ in range(couplings)))
        self.start = nn.Sequential(
            nn.Linear(latent, 16 * c0), nn.Unflatten(1, (c0, 4, 4)), nn.BatchNorm2d(c0), nn.ReLU()
        )
        self.up1 = Up(c0, c1)
        self.up2 = Up(c1, c2)
        self.up3 = Up(c2, c3)
        self.out = nn.Sequential(nn.Conv2d(c3, 12, 3, padding=1), nn.PixelShuffle(2), nn.Tanh())
        # Of the CNN's last two stages, 128 channels of 8 × 8 and 256 of 4 × 4.
        self.norms = nn.ModuleList([nn.BatchNorm2d(128), nn.BatchNorm2d(256)])
        self.code = nn.Linear(128 * 64 + 256 * 16, latent)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.paint(self.flow(latents))

    def paint(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (n, latent) to pictures."""
        return self.out(self.up3(self.up2(self.up1(self.start(codes)))))

    def seen(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """The CNN's last two maps as one row (n, 12288) of length about 1, for ``code``."""
        pairs = zip(self.norms, stages[-2:], strict=True)
        row = torch.cat([norm(maps).flatten(1) for norm, maps in pairs], dim=1)
        return row / row.shape[1] ** 0.5  # or each of Adam's steps would throw the codes about

    def encode(self, cnn: Cnn, images: torch.Tensor) -> torch.Tensor:
        """Latents (n, latent) of prepared pictures, read off the zoo's CNN."""
        return self.latents_of(self.code(self.seen(cnn.stages(images))))[0]

    def latents_of(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The flow backwards: latents (n, latent), and log-determinants (n,)."""
        total = torch.zeros(len(codes))
        for coupling in reversed(self.flow):
            assert isinstance(coupling, Coupling)  # the flow holds nothing else
            codes, determinant = coupling.inverse(codes)
            total = total + determinant
        return codes, total


def sample_latents(n: int, seed: int, size: int) -> torch.Tensor:
    """Standard normal latents (n, size) float32 that depend on ``n``, ``seed``, ``size`` alone."""
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


_FAMILY: dict[str, type[nn.Module]] = {
    "cnn": Cnn,
    "mae": MaskedAutoencoder,
    "generator": Generator,
}


def architecture_of(name: str) -> dict:
    """The arguments of a zoo model's class."""
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def load_zoo(name: str) -> nn.Module:
    """A trained zoo model.

    Parameters
    ----------
    name : str
        One of ``ZOO``.

    Returns
    -------
    torch.nn.Module
        On the CPU, float32, in evaluation mode, without gradients.

    Raises
    ------
    ZooError
        For a name that is not in the zoo, and weights that are absent or not those of the
        card.
    """
    if name not in ZOO:
        raise ZooError(f"no model {name!r} in the zoo; it holds {', '.join(ZOO)}")
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists() or not card_of(path).exists():
        raise ZooError(
            f"{path} or its card is absent: pipeline/microworld/training/train_{name}.py makes it"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != json.loads(card_of(path).read_text())["sha256"]:
        raise ZooError(f"{path} is not the file of its card: install the package again")
    model = _FAMILY[name](**architecture_of(name))
    model.load_state_dict(load(content))
    return model.eval().requires_grad_(False)
