"""Models' libraries without torch's compiler."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pipeline.models import load_model
assert "torch._dynamo" not in sys.modules, "the compiler was imported"
import torch
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(1)).item() == 2
assert "torch._dynamo" in sys.modules
"""


def test_models_come_without_the_compiler_which_still_works():
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=root)
