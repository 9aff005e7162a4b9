"""A member of the zoo as a loaded model, beside the library's own module."""

from copy import deepcopy
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.models import VisionModel
from pipeline.models.alone import ImageAlone
from pipeline.models.preprocess import Preprocess
from pipeline.models.spec import Architecture
from pipeline.models.timm_trunk import trunk_of
from tests.families.hooks import Taps, golden, layer_of
from tests.families.zoo import Member

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def loaded(
    member: Member, family: Any, dtype: torch.dtype = torch.float64
) -> tuple[VisionModel, Any]:
    """The model, made ready, and the module as its library built it, with the same weights."""
    module = member.build().to(torch.float64 if dtype == torch.float64 else torch.float32)
    if member.alone:
        module = ImageAlone(module)
    plain, trunk = deepcopy(module), trunk_of(module.visual)
    assert family.examine(trunk) == []
    sizes = asdict(family.measure(trunk))
    if not member.alone and list(module.visual.head):
        sizes["embed_dim"] = module.visual.head[-1].out_features
    known = {field.name for field in fields(Architecture)}
    family.prepare(module)
    model = VisionModel(
        name=member.family,
        config=member.config,
        checkpoint=None,
        preprocess=Preprocess.of(sizes["image_size"], {}),
        family=member.family,
        module=module.requires_grad_(False),
        dtype=dtype,
        device=torch.device("cpu"),
        weights_digest="",
        has_texts=not member.alone,
        **{name: value for name, value in sizes.items() if name in known},
    )
    assert (model.reading, model.grid, model.prefix) == (member.reading, member.grid, member.prefix)
    return model, plain


def pictures(model: VisionModel, count: int = 2) -> torch.Tensor:
    """Noise as the model takes it."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *model.preprocess.size, generator=generator, dtype=torch.float64)


def frozen(visual: Any, images: Tensor, mlp_layer: int) -> Tensor:
    """What a layer's neurons write, through values of later layers alone: attention and every σ
    stay. Of the library's own parts."""
    blocks = trunk_of(visual).blocks
    taps, wanted = Taps(visual, images), golden(visual, images)
    block = blocks[mlp_layer]
    written_btd = taps.before[block.mlp.fc2] @ block.mlp.fc2.weight.detach().T
    if not isinstance(block.mlp.norm, torch.nn.Identity):  # all but what its β writes
        beta = block.mlp.norm.bias.detach()
        written_btd = (taps.before[block.mlp.fc2] - beta) @ block.mlp.fc2.weight.detach().T
    if getattr(block, "gamma_2", None) is not None:
        written_btd = block.gamma_2.detach() * written_btd
    if "PostNorm" in type(block).__name__:
        written_btd = normed(block.norm2, taps.before[block.norm2], written_btd)
    total_be = torch.zeros_like(wanted.output_be)
    for later in range(mlp_layer + 1, len(blocks)):
        block, look = blocks[later], layer_of(taps, blocks[later])
        read_btd = written_btd
        if "PostNorm" not in type(block).__name__:
            read_btd = normed(block.norm1, taps.before[block.norm1], written_btd)
        attention, heads = block.attn, look.attention.q.shape[1]
        if attention.qkv is not None:
            value = attention.qkv.weight.detach().chunk(3)[2]
        else:
            value = attention.v_proj.weight.detach()
        values = (read_btd @ value.T).unflatten(-1, (-1, look.attention.q.shape[-1]))
        values = values.transpose(1, 2).repeat_interleave(heads // values.shape[2], 1)
        first_bq = torch.zeros_like(look.scale_bt)
        first_bq[:, 0] = (look.scale_bt / look.inner_std_bt)[:, 0]
        changed = replace(look.attention, v=values)
        for head in range(heads):
            u_bk = changed.values(head, first_bq).sum(1)
            total_be += u_bk @ wanted.head_map_lhke[later, head]
    return total_be / wanted.std_b[:, None]


def normed(norm: Any, of: Tensor, x: Tensor) -> Tensor:
    """A norm's linear part, with σ of `of`."""
    centred = isinstance(norm, torch.nn.LayerNorm)
    centre, own = (y - y.mean(-1, keepdim=True) if centred else y for y in (x, of))
    return norm.weight.detach() * centre / (own.square().mean(-1, keepdim=True) + norm.eps).sqrt()
