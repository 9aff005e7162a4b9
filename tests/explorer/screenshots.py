"""Pictures of every view, at each width and in each scheme, to be looked at: ``make screenshots``.

python -m tests.explorer.screenshots FOLDER [WORLD]: the stores are made in WORLD, or are those that
an earlier call made there. With ``docs`` as the folder, the few small pictures of docs/explorer.md.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.explorer import served, visits, world

# Pages that are longer are cut: a telephone shows a fifth of it at once.
TALLEST = 5000
# What docs/explorer.md shows, by the names of its files.
SHOWN = {
    "head": "/s/world/head/3.0",
    "maps": "/s/world/image/7/maps?text=a+blue+heart&text=grass&against=snow",
    "what-if": "/s/world/what-if?classes=microworld:shape&groups=background&gains=3.1:0",
}
WIDTH, HEIGHT, COLOURS = 1000, 1100, 256


def main(folder: Path, made: world.World) -> None:
    """Write ``ADDRESS.WIDTH.SCHEME.png`` of every visit."""
    folder.mkdir(parents=True, exist_ok=True)
    with served.serve(made) as address, served.browse() as browser:
        upload = served.bring(address)
        for asked in visits.addresses():
            with served.tab(browser, address) as tab:
                tab.go(visits.filled(asked, made, upload))
                name = re.sub(r"[^a-z0-9]+", "-", asked.lower()).strip("-") or "start"
                for width, scheme in tab.sizes():
                    tall = tab.page.evaluate("document.documentElement.scrollHeight")
                    box = {"x": 0, "y": 0, "width": int(width), "height": min(tall, TALLEST)}
                    place = folder / f"{name}.{width}.{scheme}.png"
                    tab.page.screenshot(path=place, full_page=True, clip=box)
                for fault in tab.faults:
                    print(f"{asked}: {fault}")
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


def document(folder: Path, made: world.World) -> None:
    """Write the pictures of ``SHOWN``."""
    with served.serve(made) as address, served.browse() as browser:
        served.bring(address)  # the model is there
        for name, asked in SHOWN.items():
            with served.tab(browser, address) as tab:
                tab.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
                tab.page.emulate_media(color_scheme="light")
                tab.go(asked)
                shot = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
            shot.quantize(COLOURS).save(folder / f"explorer-{name}.png", optimize=True)


if __name__ == "__main__":
    out, *kept = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        made = world.made_in(kept[0] if kept else Path(temporary))
        (document if out == Path("docs") else main)(out, made)
