"""Which code and libraries made something."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "open_clip_torch", "zarr", "numpy", "pillow", "ray", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose numbers end in a store."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def revision() -> str:
    """Facet's version, and the commit where the code stands in a git checkout."""
    release = version("facet-interp")
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return release
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{release}+{result.stdout.strip()}" if result.returncode == 0 else release
