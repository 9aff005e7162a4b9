"""Neurons: the list of a layer's, one of them, and pictures of where it fires."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.explorer.library import NotHere
from pipeline.explorer.neurons import (
    NeuronList,
    NeuronView,
    fired,
    neuron_list,
    neuron_view,
    strongest,
)
from pipeline.explorer.web.views import Here, Lib, Png, view
from pipeline.pages.pictures import as_png, heat

router = APIRouter()

At = Annotated[str, Path(pattern=r"^\d{1,6}\.\d{1,9}$", description="layer.neuron")]


def parsed(at: str) -> tuple[int, int]:
    """``2.17`` as layer and neuron."""
    layer, _, neuron = at.partition(".")
    return int(layer), int(neuron)


@view(router, "/s/{store}/neurons", "neurons.html")
def neurons(
    here: Here,
    layer: int | None = None,
    sort: str = "length",
    text: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[int, Query(ge=0)] = 0,
) -> NeuronList:
    """Neurons of a layer by the strength of what they write, with the texts of their codes."""
    return neuron_list(here, layer, sort, text.strip(), after)


@view(router, "/s/{store}/neuron/{at}", "neuron.html")
def neuron(library: Lib, here: Here, at: At, maps: bool = False) -> NeuronView:
    """What one neuron means: its texts, the images it acts on, how strong it is over images."""
    return neuron_view(library, here, *parsed(at), maps)


@router.get("/s/{store}/neuron/{at}/map/{rank}.png", response_class=Png)
def neuron_map(library: Lib, here: Here, at: At, rank: int) -> Response:
    """Where a neuron fires on one of its top images, over the image as the model saw it."""
    found = fired(library, here, *parsed(at))
    if not 0 <= rank < len(found):
        raise NotHere(f"{len(found)} of the neuron's images are shown")
    own = found[rank]
    shown = heat(own.pixels, own.activations / (strongest(found) or 1.0))
    return Png(as_png(shown))
