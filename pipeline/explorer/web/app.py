"""The application: routers, what files it serves, and how errors are told."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from pipeline.explorer.errors import NotHere
from pipeline.explorer.library import Library
from pipeline.explorer.model import NotYet
from pipeline.explorer.uploads import TooLarge
from pipeline.explorer.web.views import render
from pipeline.pages.plain import to_json
from storage.errors import FacetError

# Modules of this package with routes.
ROUTERS = (
    "overview",
    "images",
    "pictures",
    "model",
    "maps",
    "text",
    "heads",
    "uploads",
    "classes",
    "adversarial",
    "image",
    "concepts",
    "neurons",
    "shared",
    "results",
    "compare",
)
# Of mistakes; of all others 400.
STATUS = {NotHere: 404, TooLarge: 413, NotYet: 503}

OTHERWISE: dict[int | str, dict[str, str]] = {
    "4XX": {"description": "What is amiss, in words."},
    503: {"description": "The model is not loaded yet: the same question, a little later."},
}


def make_app(library: Library) -> FastAPI:
    """The application that shows a library.

    Parameters
    ----------
    library : Library
    """
    app = FastAPI(
        title="Facet",
        description="What stores hold and what was found of them: the data of every page.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=OTHERWISE,
    )
    app.state.library = library
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    for name in ROUTERS:
        app.include_router(import_module(f"pipeline.explorer.web.{name}").router)

    @app.exception_handler(FacetError)
    def mistaken(request: Request, error: FacetError) -> Response:
        status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 400)
        answer = told(request, status, str(error))
        if isinstance(error, NotYet):  # the same question, a little later
            answer.headers["Retry-After"] = answer.headers["Refresh"] = "2"
        return answer

    @app.exception_handler(FileNotFoundError)
    def gone(request: Request, error: FileNotFoundError) -> Response:
        for opened in library.stores.values():
            opened.look_again()
        words = f"{error.filename or error}: this was deleted a moment ago. Load the page again"
        return told(request, 404, words)

    @app.exception_handler(RequestValidationError)
    def unread(request: Request, error: RequestValidationError) -> Response:
        faults = (f"{e['loc'][-1]}: {e['msg'].lower()}" for e in error.errors())
        return told(request, 400, "; ".join(faults))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        words = "there is no such page" if error.status_code == 404 else str(error.detail)
        return told(request, error.status_code, words)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        # The trace goes to the terminal: it is raised again once this is sent.
        words = "something went wrong in the server; the terminal that it runs in says what"
        return told(request, 500, words)

    return app


def told(request: Request, status: int, words: str) -> Response:
    """An error, in words: as a page, or as JSON where a script asked."""
    if request.url.path.startswith("/api/") or request.method not in ("GET", "HEAD"):
        return Response(to_json({"error": words}), status, media_type="application/json")
    return HTMLResponse(render(request, "error.html", status=status, words=words), status)
