"""What a batch with gradients was projected to take holds what it takes, and not much more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import FEW_WORDS, tiny, write_config

FACTOR = 1.4
ROOT = Path(__file__).resolve().parents[3]
# A process of its own: in one that has worked before, memory is there already.
CODE = """
import json, re, sys
import torch
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.gradients import GradientMaps
from pipeline.heatmaps.memory import gradient_bytes
from pipeline.models import ModelSpec, load_model

def held(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

model, batch, methods = load_model(ModelSpec(sys.argv[1], "none")), int(sys.argv[2]), sys.argv[3:]
images = torch.randn(batch, 3, *model.preprocess.size)
texts = torch.nn.functional.normalize(torch.randn(3, model.embed_dim))
classes = torch.zeros(batch, dtype=torch.int64)
maps = GradientMaps(model, methods)
maps(images[:1], Asked(classes[:1], texts, classes[:1]))
before = held("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
maps(images, Asked(classes, texts, classes))
print(json.dumps([gradient_bytes(model, batch, methods), held("VmHWM") - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
@pytest.mark.parametrize(
    ("patch", "batch", "methods"),
    [(16, 12, ["gradient-attention", "legrad"]), (32, 64, ["gradient-attention", "gradcam"])],
)
def test_a_batch_takes_what_it_was_projected_to(tmp_path, patch, batch, methods):
    vision = {"image_size": 224, "patch_size": patch, "width": 384, "layers": 4, "head_width": 64}
    model = write_config(tmp_path, tiny(vision, FEW_WORDS, quick_gelu=True))
    done = subprocess.run(
        [sys.executable, "-c", CODE, model, str(batch), *methods],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    projected, taken = json.loads(done.stdout)
    print(f"{methods}: {projected / 1e6:.0f} MB projected, {taken / 1e6:.0f} MB taken")
    assert taken / FACTOR <= projected <= FACTOR * taken
