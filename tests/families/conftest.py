"""A member of the zoo as its users have it: from files, and as a store of ten pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.cluster import machines
from pipeline.cluster.work import Workers
from pipeline.extraction.run import run
from pipeline.extraction.spec import StoreSpec
from pipeline.extraction.store import open_or_create
from pipeline.images.decode import decode
from pipeline.models import ModelSpec, VisionModel, load_model
from pipeline.stats.reductions import reduce_store
from storage import open_store
from storage.reductions import Reductions
from storage.store import Store
from tests.families.hooks import Golden, golden
from tests.families.zoo import ZOO, Member
from tests.pipeline.images import kit

PICTURES, BAD = 10, 9


@dataclass(frozen=True, eq=False)
class Made:
    """A member of the zoo, its files, and all that is made of them when it is asked for."""

    name: str
    member: Member
    folder: Path

    @cached_property
    def module(self) -> nn.Module:
        """The library's own, float64."""
        return self.member.build().double()

    @cached_property
    def spec(self) -> ModelSpec:
        return ModelSpec(*self.member.write(self.folder, self.module))

    @cached_property
    def model(self) -> VisionModel:
        return load_model(self.spec, dtype=torch.float64)

    @cached_property
    def images(self) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        size = self.member.size
        return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)

    @cached_property
    def golden(self) -> Golden:
        """Of `images`."""
        return golden(self.member.visual(self.module), self.images)

    @cached_property
    def store(self) -> Store:
        """Ten pictures, one of them none, extracted in this process with all that there is."""
        model, folder = load_model(self.spec), self.folder / "pictures"
        folder.mkdir()
        for i in range(PICTURES):
            (folder / f"{i}.png").write_bytes(kit.encode(kit.picture(i, 70, 90)))
        (folder / f"{BAD}.png").write_bytes(b"no picture")
        parts = ("heads", "mlps", "tokens") if model.heads else ("mlps",)
        asked = StoreSpec(
            images=str(folder), model=self.spec, components=parts, layers="all",
            precision="fp32", store_dtype="float32", shard_size=5,
        )  # fmt: skip
        made, _ = open_or_create(str(self.folder / "store"), asked, model, model)
        run(made, model, Workers("cpu", 1, 1, 4), max_bad=0.2)
        return open_store(made.url)

    @cached_property
    def reductions(self) -> Reductions:
        return reduce_store(self.store)

    @cached_property
    def pictures(self) -> Tensor:
        """The store's pictures that are ok, as the model takes them."""
        prepared = self.model.preprocess
        folder = self.folder / "pictures"
        pixels = [
            torch.tensor(prepared.to_uint8(decode((folder / f"{i}.png").read_bytes())))
            for i in range(PICTURES)
            if i != BAD
        ]
        return prepared.to_tensor(torch.stack(pixels)).double()

    @cached_property
    def shown(self) -> Golden:
        """Of the store's pictures."""
        assert self.store.meta.images == PICTURES  # the pictures are written
        return golden(self.member.visual(self.module), self.pictures)


@pytest.fixture(scope="module", params=ZOO)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One after the other, every member of the zoo."""
    machines.work("here")
    return Made(request.param, ZOO[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def in_this_process(here: None) -> None:
    """No test here starts Ray."""
