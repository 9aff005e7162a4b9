"""Pictures of every view, at each width and in each scheme, to be looked at: ``make screenshots``.

python -m tests.explorer.screenshots FOLDER [WORLD]: the stores are made in WORLD, or are those that
an earlier call made there.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.explorer import served, visits, world

# Pages that are longer are cut: a telephone shows a fifth of it at once.
TALLEST = 5000


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


if __name__ == "__main__":
    out, *kept = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        main(out, world.made_in(kept[0] if kept else Path(temporary)))
