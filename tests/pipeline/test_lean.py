"""Models' libraries without what they do not need."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pipeline.models import ModelSpec, load_model
load_model(ModelSpec("microworld", "microworld"))
unused = ("torch._dynamo", "sympy", "timm", "torchvision.models", "torchvision.datasets")
assert not (found := [name for name in unused if name in sys.modules]), found

import open_clip, torch, torchvision
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(1)).item() == 2
assert "torch._dynamo" in sys.modules
assert "resnet18" in torchvision.models.list_models(module=torchvision.models)
tower = {"image_size": 32, "timm_model_name": "resnet10t"}
text = {"context_length": 8, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
model = open_clip.CustomTextCLIP(8, tower, text).eval()
assert model.visual(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
import open_clip.timm_model
assert type(model.visual) is open_clip.timm_model.TimmModel
"""


def test_models_come_without_what_they_do_not_need_which_still_works():
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=root)
