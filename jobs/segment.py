"""Heat maps of many methods, held to the masks of a store's pictures.

    facet segment --store out/ --classes imagenet --masks masks/ --methods tokens rollout gradcam

For every picture each method makes a map of one class. A map becomes pixels that are foreground and
pixels that are not, and these are held to the picture's mask: pixel accuracy, mIoU and mAP, a row a
method. The same command again goes on where a stopped run ended, shard by shard. The figures of the
published protocol are those of --layers all --convention equal-share --class predicted --protocol
published ("Interpreting CLIP's Image Representation via Text-Based Decomposition", Gandelsman et
al. 2024); that protocol crops pictures and stretches masks, aligned puts both through one crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.checks import at_place, look, refuse_classes, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.heatmaps.choices import Method, Protocol, refuse_reading, token_heads
from pipeline.images import gtsegs, micro
from pipeline.images.decoding import decode_of
from pipeline.images.masks import MICROWORLD, MaskSource, check_masks, parse_masks
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.texts import load_classes
from pipeline.texts.classes import Classes
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.segment import SegmentRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class SegmentConfig:
    """Heat maps of many methods, held to the masks of a store's pictures."""

    store: str
    """The store: a local path or an object-store URL."""
    classes: str
    """imagenet, waterbirds, microworld:<attribute> (of some values alone,
    microworld:shape=star,heart), or a text file with one class (or label<TAB>name) a line."""
    masks: str | None = None
    """microworld, a folder of mask pictures that are called as their pictures, or gtsegs:FILE, that
    of ImageNet-Segmentation; by default where the pictures are, if they have their masks there."""
    methods: tuple[Method, ...] = ("tokens", "raw-attention", "rollout", "gradcam", "random")
    """What makes the maps, a row of the table each. Tokens are the model's own contributions;
    random is a control; neurons needs facet second-order."""
    protocol: tuple[Protocol, ...] = ("aligned",)
    """How masks come onto the pictures: through the picture's own resize and crop; or, as
    published, stretched to the model's input."""
    class_: Annotated[Literal["predicted", "label"], tyro.conf.arg(name="class")] = "predicted"
    """Whose map is made: the class that the model itself predicts, or the labelled one."""
    label_column: str = "label"
    """For --class label: column of the image table that says what an image shows."""
    layers: tuple[str, ...] = ("all",)
    """For tokens: layers whose attention is summed, a row each: all, last:4, 20-23, 1,3."""
    heads: tuple[str, ...] = ()
    """For tokens: of these heads alone, as layer.head, such as 3.0 3.2."""
    convention: Literal["centred", "equal-share"] = "centred"
    """For tokens: whether biases and what the last norm subtracts are terms of their own, or, as
    published, shared among all tokens."""
    mlp_layers: str = "last:3"
    """For neurons: MLP layers, as in facet second-order: all, last:3, 8-10, 1,3."""
    where: str | None = None
    """Which images, by columns of the image table."""
    steps: int = 0
    """Deletion and insertion curves in so many steps, for every row; by default none."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    batch_size: int | None = None
    """Images in one pass; by default 32 on CPUs, 256 on a GPU, fewer where memory asks for it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the model."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the model at work; auto: one a GPU, or one a CPU while memory lasts."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: SegmentConfig) -> SegmentRun:
    """Check what can be told at once, then make the maps and hold them to the masks."""
    choose_place(config)
    classes = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.segment import run

    return run(config, classes)


def check(config: SegmentConfig, planned: Metadata | None = None) -> Classes:
    """Refuse settings that do not go together, or not with the store; returns the classes."""
    for name in ("methods", "protocol", "layers"):
        given = getattr(config, name)
        if not given:
            raise FacetError(f"`{name}`: name at least one")
        if len(set(given)) < len(given):
            raise FacetError(f"`{name}` {' '.join(given)}: each once")
    if "tokens" not in config.methods:
        refuse_unused(config, ["layers", "heads", "convention"], "--methods tokens")
    if "neurons" not in config.methods:
        refuse_unused(config, ["mlp_layers"], "--methods neurons")
    if config.class_ == "predicted":
        refuse_unused(config, ["label_column"], "--class label")
    refuse_bounds(config, steps=0, batch_size=1)
    machines.check_device(config.device)
    tables, meta = look(config.store, planned, texts=True)
    machines.check_decode(decode_of(meta.preprocessing), config.device)
    refuse_reading(meta, config.methods, config.convention, curves=config.steps > 0)
    token_heads(config.layers, config.heads, meta)
    if "neurons" in config.methods:
        parse_mlp_layers(config.mlp_layers, meta)
    source = source_of(config, meta)
    classes = load_classes(config.classes)
    refuse_conditions(tables, where=config.where)
    if config.class_ == "label":
        refuse_classes(tables, config.where, config.label_column, classes)
    if tables is not None:
        check_masks(tables, source)
    return classes


def source_of(config: SegmentConfig, meta: Metadata) -> MaskSource:
    """Where masks are: named, or where the pictures are."""
    if config.masks is not None:
        return parse_masks(config.masks)
    if meta.source.startswith(micro.PREFIX):
        return parse_masks(MICROWORLD)
    if meta.source.startswith(gtsegs.PREFIX):
        return parse_masks(meta.source)
    raise FacetError(
        f"--masks: nothing says where the masks of the pictures of {meta.source} are: name the "
        "folder that they are in"
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(SegmentConfig, description=__doc__))
