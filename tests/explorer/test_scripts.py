"""Our scripts for browsers are checked as Python is: types from their comments, and a linter."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parents[2] / "pipeline" / "explorer" / "web" / "static"
SETTINGS = Path(__file__).with_name("deno.json")
DENO = Path(sysconfig.get_path("scripts")) / "deno"


def said(*words: str | Path, folder: Path) -> str:
    """What ``deno`` says; the empty text if it finds nothing. It keeps its memory in a folder."""
    known = {**os.environ, "DENO_DIR": str(folder), "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"}
    done = subprocess.run(
        [DENO, *words], capture_output=True, text=True, env=known, cwd=STATIC, timeout=300
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("check", ["check", "lint"])
def test_scripts_are_in_order(tmp_path, check):
    assert said(check, "--config", SETTINGS, *sorted(STATIC.glob("*.js")), folder=tmp_path) == ""


def test_what_is_not_in_order_is_found(tmp_path):
    wrong = tmp_path / "wrong.js"
    wrong.write_text('var unused = 1;\ndocument.querySelector("input").valeu = "a";\n')
    assert "possibly 'null'" in said("check", "--config", SETTINGS, wrong, folder=tmp_path)
    assert "no-var" in said("lint", "--config", SETTINGS, wrong, folder=tmp_path)
