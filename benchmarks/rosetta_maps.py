"""Which layers of many models give maps that lie where the picture is: ``docs/rosetta-models.md``.

``OMP_NUM_THREADS=1 python -m benchmarks.rosetta_maps`` builds a small model of every family that it
names, with random weights, probes its layers as ``facet rosetta`` does and writes the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.rosetta.models import load_units
from storage.errors import FacetError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "rosetta-models.md"
TIMM = """
beit_base_patch16_224 coat_tiny convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano
crossvit_tiny_240 csatv2 cs3darknet_focus_s davit_tiny deit_tiny_distilled_patch16_224 densenet121
dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0
efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 gmlp_ti16_224 halonet26t hgnetv2_b0 hiera_tiny_224
iformer_t inception_next_atto inception_v3 lcnet_050 levit_128s lowformer_b0 mambaout_femto
maxvit_pico_rw_256 mixer_l32_224 mixer_s16_224 mobilenetv3_small_050 mobileone_s0 mobilevit_xxs
mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 poolformerv2_s12
pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvgg_a0 repvit_m1 res2next50
resmlp_12_224 resnest14d resnet10t resnet50 resnetv2_18 rexnet_100 cait_xxs24_224
coatnet_nano_rw_224 convit_tiny deit3_small_patch16_224 hrnet_w18_small maxxvit_rmlp_nano_rw_256
sebotnet33ts_256 selecsls42 sequencer2d_s seresnext26t_32x4d shvit_s1 skresnet18 starnet_s1
swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
tf_efficientnet_lite0 tf_mixnet_s tiny_vit_5m_224 tresnet_m twins_svt_small vgg11 visformer_tiny
vit_small_patch14_reg4_dinov2 vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a
xception41 xcit_nano_12_p16_224
"""
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5
squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_32
"""
OPEN_CLIP = """
EVA02-B-16 MobileCLIP-S1 RN50 ViT-B-16-SigLIP ViT-B-32 ViT-S-32-alt ViTamin-S coca_ViT-B-32
convnext_base
"""
FAMILIES = {"timm": TIMM, "torchvision": TORCHVISION, "open_clip": OPEN_CLIP}
WORLD = ("microworld", "microworld-cnn", "microworld-mae", "microworld-generator")
MODELS = (
    *WORLD,
    *(f"{family}:{name}/none" for family, names in FAMILIES.items() for name in names.split()),
)
TEXT = """# Layers whose maps lie where the picture is

`facet rosetta` and `facet invert` compare maps position by position. A shape does not tell whether
a layer's positions are the picture's, so every model is probed once when it is loaded: a change in
one quarter of a picture must show most in that quarter of the layer's maps (of a generator: what a
quarter of its picture hangs on must lie there). Layers that fail are left out, counted in the
summary and named in the result's provenance; named after an `@` they are refused. What is left out
below gives tokens in another order (Hiera), in windows (NesT) or mixed (MLPs over tokens), or what
it gives is the same wherever the picture changes.

That last holds of the weights, not of the layer: those here are random (but for the embedded
world's), and random filters or attention that see all of a small map forget the place, as those of
trained models do not. Layers of one position, such as those that weigh channels, have no place
either. By default a model's four stages or all its activation functions are probed.

```bash
OMP_NUM_THREADS=1 python -m benchmarks.rosetta_maps
```

| model | layers kept | left out, and why |
|---|---|---|
"""


@dataclass(frozen=True)
class Scan:
    """Probe models and write the page."""

    models: tuple[str, ...] = MODELS
    """As facet rosetta takes them."""
    out: Path = PAGE
    """The page."""


def row(name: str) -> str:
    """A line of the table."""
    try:
        model = load_units(name, generator=name.endswith("generator"))
    except FacetError as error:
        return f"| {name} | none | {str(error).partition(': ')[2]} |"
    reasons: dict[str, list[str]] = {}
    for layer, why in model.left_out.items():
        reasons.setdefault(why.partition(":")[0], []).append(layer)
    words = [
        f"{len(layers)} {why} ({layers[0]}{' …' * (len(layers) > 1)})"
        for why, layers in reasons.items()
    ]
    return f"| {name} | {len(model.card.layers)} | {'; '.join(words) or 'none'} |"


def main(config: Scan) -> None:
    with config.out.open("w") as page:
        page.write(TEXT)
        for name in config.models:
            line = row(name)
            print(line, flush=True)
            page.write(line + "\n")


if __name__ == "__main__":
    main(tyro.cli(Scan))
