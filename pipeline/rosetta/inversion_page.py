"""Inversions to look at: rows of pictures, and a page of them with the figures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.pages.html import Section, page, section
from pipeline.pages.pictures import picture

from .inversions import Inversions
from .models import pictures

# Pictures of a row.
SHOWN = 8


def inversion_files(found: Inversions, lead: str) -> dict[str, bytes]:
    """A PNG of every row of pictures, and ``index.html``, by file name."""
    files, sections = {}, [_figures(found)]
    kinds = (("Inversions", found.inverted), ("Edits of the generator's own maps", found.edited))
    for title, rows in kinds:
        for name, images in rows.items():
            strip = Image.fromarray(np.concatenate(pictures(images[:SHOWN]), axis=1))
            strip = strip.resize((strip.width * 2, strip.height * 2), Image.Resampling.NEAREST)
            buffer = io.BytesIO()
            strip.save(buffer, format="png")
            files[f"{name.replace(' ', '-')}.png"] = buffer.getvalue()
            sections.append(section(f"{title}: {name}", plot=[picture(strip, name)]))
    whole = page("Inversions through shared units", lead, sections)
    return files | {"index.html": whole.encode()}


def _figures(found: Inversions) -> Section:
    cells = [
        (r.loss, f"{r.psnr:.2f}", f"{r.ssim:.3f}", f"{r.perceptual:.3f}")
        for r in found.figures.itertuples()
    ]
    header = ("loss", "PSNR (dB)", "SSIM", "perceptual distance")
    return section("How like the targets", header=header, rows=cells)
