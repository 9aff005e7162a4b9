"""Where the explorer's views are visited."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from pipeline.explorer.web.app import ROUTERS
from tests.explorer.world import World

# Stand for the name of a picture that was brought, and of the result of TextSpan.
UPLOAD, RESULT = "UPLOAD", "RESULT"
# Addresses by the path of the view; how its parts are called there does not matter.
VISITS: dict[str, tuple[str, ...]] = {
    "/": ("/",),
    "/s/{}": ("/s/world", "/s/folder", "/s/world?colour=property:background"),
    "/s/{}/images": (
        "/s/world/images",
        "/s/world/images?where=background+%3D%3D+%22night%22&sort=label&down=true",
        "/s/folder/images",
    ),
    "/s/{}/image/{}": ("/s/world/image/7", "/s/folder/image/1"),
    "/s/{}/image/{}/maps": (
        "/s/world/image/7/maps",
        "/s/world/image/7/maps?text=a+red+star&text=snow",
        "/s/folder/image/1/maps?text=a+red+star",
    ),
    "/s/{}/image/{}/alike": ("/s/world/image/7/alike", "/s/world/image/7/alike?in=head:3.0"),
    "/s/{}/image/{}/concepts": (
        "/s/world/image/7/concepts",
        "/s/world/image/7/concepts?method=heads&mlp_layers=2",
        "/s/folder/image/1/concepts",
    ),
    "/s/{}/picture/{}": (f"/s/world/picture/{UPLOAD}",),
    "/s/{}/picture/{}/maps": (f"/s/world/picture/{UPLOAD}/maps?text=a+red+star&against=snow",),
    "/s/{}/picture/{}/alike": (f"/s/world/picture/{UPLOAD}/alike?in=property:background",),
    "/s/{}/picture/{}/concepts": (f"/s/world/picture/{UPLOAD}/concepts",),
    "/s/{}/head/{}": ("/s/world/head/3.0", "/s/folder/head/1.3"),
    "/s/{}/head/{}/map": ("/s/world/head/3.0/map", "/s/world/head/3.0/map?x0=0&x1=9&y0=-9&y1=9"),
    "/s/{}/text": ("/s/world/text", "/s/world/text?text=snow", "/s/folder/text"),
    "/s/{}/properties": ("/s/world/properties", "/s/folder/properties"),
    "/s/{}/property/{}": ("/s/world/property/background",),
    "/s/{}/neurons": ("/s/world/neurons?layer=2", "/s/folder/neurons"),
    "/s/{}/neuron/{}": ("/s/world/neuron/2.17", "/s/world/neuron/2.17?maps=true"),
    "/r/{}": ("/r/shared",),
    "/r/{}/concept/{}": ("/r/shared/concept/1", "/r/shared/concept/1?maps=true"),
    "/s/{}/classes": ("/s/world/classes", "/s/world/classes?classes=microworld:shape"),
    "/s/{}/adversarial": (
        "/s/world/adversarial",
        "/s/world/adversarial?drawn=star&target=heart",
        "/s/world/adversarial?drawn=ring&target=moon",
        "/s/folder/adversarial",
    ),
    "/s/{}/what-if": ("/s/world/what-if?classes=microworld:shape&groups=background",),
    "/s/{}/compare": (
        "/s/world/compare",
        "/s/world/compare?a=background+%3D%3D+%22night%22&b=background+%3D%3D+%22sand%22",
    ),
    "/s/{}/results": ("/s/world/results", "/s/folder/results"),
    "/s/{}/result/{}/{}": (
        f"/s/world/result/textspan/{RESULT}",
        "/s/world/result/repair/latest",
    ),
    "/s/{}/result/{}/{}/{}": (
        f"/s/world/result/textspan/{RESULT}/descriptions",
        "/s/world/result/second_order/latest/top_images?sort=norm&down=true&after=100",
    ),
}


def views() -> set[str]:
    """Paths of the views, without the names of their parts: what has a twin that gives JSON."""
    paths = {
        re.sub(r"{[^}]*}", "{}", getattr(route, "path", ""))
        for name in ROUTERS
        for route in import_module(f"pipeline.explorer.web.{name}").router.routes
    }
    return {path for path in paths if f"/api{path}" in paths}


def addresses() -> list[str]:
    """Where every view is visited."""
    return [address for path in VISITS if path in views() for address in VISITS[path]]


def filled(address: str, made: World, upload: str) -> str:
    """An address with the names that come with the stores and with what was brought."""
    result = next((Path(made.stores[0]) / "results" / "textspan").iterdir()).name
    return address.replace(UPLOAD, upload).replace(RESULT, result)
