"""What `SCHEMA.md` says of the columns of results' tables, for whoever shows them."""

from functools import cache
from importlib.resources import files


@cache
def meanings() -> dict[str, dict[str, str]]:
    """What each column is, by table (``omp/codes``) and column."""
    law = (files("storage") / "SCHEMA.md").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for line in law.split("\n## results/\n")[1].splitlines():
        cells = line.strip("| ").split(" | ")
        if line.startswith("| ") and len(cells) == 4 and "/" in cells[0]:
            found.setdefault(cells[0], {})[cells[1]] = cells[3]
    return found
