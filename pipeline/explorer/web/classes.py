"""Classes and groups: how well images are classified, and what gains of parts make of that."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from pipeline.explorer.classified import Classified, classified
from pipeline.explorer.library import Opened
from pipeline.explorer.scene import Asked
from pipeline.explorer.web.views import Here, Lib, view
from pipeline.explorer.what_if import WhatIf, edit_file, table, what_if

router = APIRouter()

Words = Annotated[str, Query(max_length=8000)]
Column = Annotated[str, Query(max_length=200)]
Gains = Annotated[str, Query(max_length=8000)]
Number = Annotated[int | None, Query(ge=0, lt=2**31)]


def asked(
    classes: Words = "", label_column: Column = "label", groups: Column = "", where: Words = ""
) -> Asked:
    """Which classes, labels, groups and images."""
    return Asked(classes, label_column, groups, where)


Of = Annotated[Asked, Depends(asked)]


class Packed(Response):
    """Numbers, one after the other."""

    media_type = "application/octet-stream"


@view(router, "/s/{store}/classes", "classes.html")
def classes_page(
    here: Here,
    library: Lib,
    of: Of,
    truth: Number = None,
    predicted: Number = None,
) -> Classified:
    """Accuracies by class and group, the confusions, and the images of one of them."""
    cell = None if truth is None or predicted is None else (truth, predicted)
    return classified(library, here, of, cell)


@view(router, "/s/{store}/what-if", "what_if.html")
def what_if_page(
    here: Here,
    library: Lib,
    of: Of,
    gains: Gains = "",
    image: Number = None,
) -> WhatIf:
    """Accuracies when parts count more or less: gains such as ``1.3:0 mlp2:0.5``."""
    return what_if(library, here, of, gains, image)


@router.get("/s/{store}/what-if/table.bin", name="what_if_table", response_class=Packed)
def what_if_table(
    here: Here,
    library: Lib,
    of: Of,
) -> Response:
    """Of N images, C classes and S parts: float32 logits (N, C) and what mean-ablating each part
    takes from them (S, N, C), then int32 classes, groups and numbers (N); little-endian."""
    found = table(library, here, of)
    return Packed(found.packed())


@router.get("/s/{store}/what-if/edit.json", name="what_if_edit")
def what_if_edit(here: Here, gains: Gains = "") -> Response:
    """Gains as a file that other jobs take."""
    return Response(edit_file(here, gains), media_type="application/json", headers=_saved(here))


def _saved(here: Opened) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{here.name}-edit.json"'}
