"""The kernels of a GPU, run by Triton's interpreter; and what becomes of them without a GPU."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.models import norms


def test_the_kernels_are_the_equations():
    pytest.importorskip("triton")
    file = Path(__file__).with_name("kernels_interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "3 passed" in done.stdout


def test_where_triton_cannot_compile_it_is_said_once(caplog):
    """For a CPU it cannot."""
    norms.kernels_run.cache_clear()
    with caplog.at_level(logging.WARNING, "facet"):
        assert not any(norms.kernels_run(torch.device("cpu")) for _ in range(2))
    (record,) = caplog.records
    assert "which is slower: Triton cannot compile kernels" in record.getMessage()
    norms.kernels_run.cache_clear()
