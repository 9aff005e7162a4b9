"""A member of the zoo as a loaded model, beside the library's own module."""

from copy import deepcopy
from dataclasses import asdict, fields
from typing import Any

import torch

from pipeline.models import VisionModel
from pipeline.models.preprocess import Preprocess
from pipeline.models.spec import Architecture
from pipeline.models.timm_alone import TimmAlone
from pipeline.models.timm_trunk import trunk_of
from tests.families.zoo import Member

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def loaded(
    member: Member, family: Any, dtype: torch.dtype = torch.float64
) -> tuple[VisionModel, Any]:
    """The model, made ready, and the module as its library built it, with the same weights."""
    module = member.build().to(torch.float64 if dtype == torch.float64 else torch.float32)
    if member.alone:
        module = TimmAlone(module)
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
