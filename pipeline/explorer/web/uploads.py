"""Where pictures are brought: the one address that takes anything."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pipeline.explorer.uploads import FILE_BYTES, TooLarge, too_large
from pipeline.explorer.web.views import Here, Lib
from pipeline.pages.plain import to_json

router = APIRouter()

# What is read here and not by FastAPI, for who reads what this address takes.
BINARY = {"schema": {"type": "string", "format": "binary"}}
TAKES = {"requestBody": {"required": True, "content": {"image/*": BINARY}}}


@router.post("/s/{store}/picture", status_code=201, response_model=None, openapi_extra=TAKES)
async def bring(
    request: Request,
    here: Here,
    library: Lib,
    name: Annotated[str, Query(max_length=400)] = "",
) -> Response:
    """Hold a picture, whose file is the request's body, in memory; answers with its address.

    It is held until the server ends or others need the room.
    """
    # Read here and not on a thread: a slow sender must not hold one.
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > FILE_BYTES:
                raise TooLarge(too_large())
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read why
    upload = await run_in_threadpool(library.uploads.add, name, bytes(body))
    address = f"/s/{here.name}/picture/{upload.id}"
    found = {
        "id": upload.id,
        "name": upload.name,
        "address": address,
        "width": upload.width,
        "height": upload.height,
    }
    return Response(
        to_json(found), 201, headers={"Location": address}, media_type="application/json"
    )
