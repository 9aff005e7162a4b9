"""Sections of the page: maps of many methods against masks, and pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.heatmaps.answers import Segmented
from pipeline.heatmaps.sheet import Sheet

from . import sentences
from .html import Made, Section, section, slug
from .segmentation_figure import classes_figure, curve_figure, erased_figure, sheet_figure

TITLE, SHEET_TITLE = "Where in the picture: maps against masks", "Maps on pictures"
HEADER = ("mIoU, % (95%)", "less than the best, points (95%)", "mAP, % (95%)", "pixels right, %")


def segmentation_sections(
    found: Segmented,
    sheet: Sheet | None,
    of: str,
    classes: str,
    warned: Sequence[str],
    made: Made,
) -> list[Section]:
    """What agrees with masks best, and how it looks.

    Parameters
    ----------
    of : str
        Whose map was made of each picture: ``predicted`` class or ``label``.
    classes : str
        Which classes there were, as the setting has them.
    """
    methods = found.methods
    protocols, alike = _protocols(methods)
    first = _of(methods, protocols[0])
    said = [
        sentences.found_best(_of(methods, name), _of(found.differences, name)) for name in protocols
    ]
    said += [f"{sentences.MASKS[name]}, every figure is the same" for name in alike]
    curves = {name: _of(found.curve, name) for name in protocols}
    plots = [curve_figure(of, f"masks {name}") for name, of in curves.items() if len(of)]
    plots.append(classes_figure(_of(found.classes, protocols[0]), list(first["method"])))
    if first["deletion"].notna().all():
        plots.append(erased_figure(first))
    name = f"segmentation-{slug(classes)}"
    sections = [
        section(
            f"{TITLE}, {classes}",
            f"Each method makes a map of the {_whose(of)}, and what is above the map's own mean"
            f"{', of neurons above half of the most,' if 'neurons' in set(first['method']) else ''}"
            " is its foreground. mIoU, of foreground and background, and pixels are of all "
            "pictures together, mAP is a mean over pictures; differences are over the same "
            "pictures.",
            name=name,
            found=sentences.joined(said),
            notes=warned,
            plot=plots,
            header=("method", *(["masks"] if len(protocols) > 1 else []), *HEADER),
            rows=[
                row
                for protocol in protocols
                for row in _rows(found, protocol, alone=len(protocols) == 1)
            ],
            made=made,
        )
    ]  # fmt: skip
    if sheet is not None:
        sections.append(_sheet_section(sheet, classes, f"{name}-pictures", made))
    return sections


def _protocols(methods: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Those that are shown, and those under which every figure is that of the first."""
    by_name = {str(name): of for name, of in methods.groupby("protocol", sort=False)}
    figures = {
        name: of.drop(columns="protocol").reset_index(drop=True) for name, of in by_name.items()
    }
    first, *others = figures
    alike = [name for name in others if figures[name].equals(figures[first])]
    return [name for name in figures if name not in alike], alike


def _of(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return table[table["protocol"] == protocol]


def _whose(of: str) -> str:
    return "labelled class" if of == "label" else "class that the model predicts"


def _rows(found: Segmented, protocol: str, alone: bool) -> list[tuple[str, ...]]:
    """A row a method of one protocol, the best first."""
    ranked = _of(found.methods, protocol).sort_values("miou", ascending=False, kind="stable")
    best = str(ranked["method"].iloc[0])
    less = sentences.miou_less_than(best, _of(found.differences, protocol))
    return [
        (
            str(row["method"]),
            *([] if alone else [protocol]),
            _with_interval(row, "miou"),
            "" if row["method"] == best else _difference(less[str(row["method"])]),
            _with_interval(row, "map"),
            f"{100 * row['accuracy']:.1f}",
        )
        for _, row in ranked.iterrows()
    ]


def _with_interval(row: pd.Series, name: str) -> str:
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _difference(row: pd.Series) -> str:
    return f"{sentences.points(row['change'])} ({sentences.interval(row)})"


def _sheet_section(sheet: Sheet, classes: str, name: str, made: Made) -> Section:
    """The worst, the middle and the best pictures of the first method."""
    cases = pd.Series([case.case for case in sheet.cases])
    shown = ", ".join(f"{n} {case}" for case, n in cases.value_counts(sort=False).items())
    ious = [case.iou for case in sheet.cases]
    return section(
        f"{SHEET_TITLE}, {classes}",
        "Maps are shown as they are held to masks: from the least to the most of each.",
        name=name,
        found=f"Of all pictures the {shown}, by the IoU of the foreground that {sheet.methods[0]} "
        f"finds, {min(ious):.0%} to {max(ious):.0%}; {sentences.MASKS[sheet.protocol]}.",
        plot=[sheet_figure(sheet)],
        made=made,
    )
