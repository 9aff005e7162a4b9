"""What makes a page and a JSON document of a view."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, quote_plus

import jinja2
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from pipeline.explorer.colours import FAINT, tint
from pipeline.explorer.library import Library, Opened, OpenedUnits
from pipeline.pages.adversarial import in_bold
from pipeline.pages.concepts import signed
from pipeline.pages.plain import to_json

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.globals |= {"tint": tint, "faint": FAINT}


_quoted, _field = lru_cache(8192)(quote), lru_cache(8192)(partial(quote_plus, safe=""))


def urlencode(value: str | Mapping[str, Any]) -> str:
    """As Jinja's own; what tables say again and again is quoted once."""
    if isinstance(value, str):
        return _quoted(value)
    return "&".join(f"{_field(name)}={_field(str(given))}" for name, given in value.items())


TEMPLATES.filters |= {"urlencode": urlencode, "in_bold": in_bold, "signed": signed}

Make = TypeVar("Make", bound=Callable[..., Any])


class Png(Response):
    """A picture."""

    media_type = "image/png"


class Jpeg(Response):
    """A small picture."""

    media_type = "image/jpeg"


# What only looks something up is done where it is asked for: a thread that waits for its turn among
# others would take longer than that.
async def library_of(request: Request) -> Library:
    """All that this server looks at."""
    return request.app.state.library


Lib = Annotated[Library, Depends(library_of)]


async def store_of(library: Lib, store: str) -> Opened:
    """The store that the address names."""
    return library.opened(store)


async def units_of(library: Lib, rosetta: str) -> OpenedUnits:
    """The shared units that the address names."""
    return library.units(rosetta)


Here = Annotated[Opened, Depends(store_of)]
Units = Annotated[OpenedUnits, Depends(units_of)]


def render(request: Request, template: str, **values: Any) -> str:
    """A page.

    Every template gets ``library``, ``here`` (the store of the address, or None), ``address`` (path
    and query), and ``json_address``, where the same data are.
    """
    library: Library = request.app.state.library
    named = request.path_params.get("store")
    query = f"?{request.url.query}" if request.url.query else ""
    given = {
        "library": library,
        "here": library.stores.get(named) if named else None,
        "address": request.url.path + query,
        "json_address": f"/api{request.url.path}{query}",
    }
    return TEMPLATES.get_template(template).render(given | values)


def passing(found: object) -> dict[str, str]:
    """Headers of an answer that is not kept, if a view waits for what is there a little later."""
    return {"Cache-Control": "no-store"} if getattr(found, "waiting", "") else {}


def view(router: APIRouter, path: str, template: str) -> Callable[[Make], Make]:
    """Register a function's data as a page, and as JSON at the same address under ``/api``.

    Parameters
    ----------
    router : APIRouter
    path : str
        The address.
    template : str
        Shows what the function returns, which it has as ``view``.
    """

    def register(make: Make) -> Make:
        known = inspect.signature(make, eval_str=True)
        asked = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        others = [p for p in known.parameters.values() if p.name != "request"]
        wants = "request" in known.parameters

        @wraps(make)
        def page(request: Request, **given: Any) -> HTMLResponse:
            found = make(request=request, **given) if wants else make(**given)
            return HTMLResponse(render(request, template, view=found), headers=passing(found))

        @wraps(make)
        def document(**given: Any) -> Response:
            found = make(**given)
            return Response(to_json(found), media_type="application/json", headers=passing(found))

        page.__signature__ = known.replace(  # type: ignore[attr-defined]
            parameters=[*others, asked], return_annotation=HTMLResponse
        )
        document.__signature__ = known.replace(  # type: ignore[attr-defined]
            return_annotation=Response
        )
        name = make.__name__
        router.add_api_route(path, page, name=name, include_in_schema=False, response_model=None)
        router.add_api_route(f"/api{path}", document, name=f"{name}_json", response_model=None)
        return make

    return register
