"""Properties: which heads carry which, with the evidence."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.explorer.cloud import cloud
from pipeline.explorer.columns import said
from pipeline.explorer.head_map import Shown
from pipeline.explorer.heads import Evidence, evidence_of, property_rows, variance_of
from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.spaces import judged_labels
from pipeline.heads.choices import Head
from pipeline.labels.answers import labelled
from storage.results import Result

# Images of each end of a head.
ENDS = 6


@dataclass(frozen=True)
class Property:
    """A property, and the heads that carry it.

    Attributes
    ----------
    name : str
    heads : tuple of str
        As ``3.0``, those with most variance first.
    share : float or None
        Of the variance of all heads, what these have.
    """

    name: str
    heads: tuple[str, ...]
    share: float | None


@dataclass(frozen=True)
class Properties:
    """All properties that heads were labelled with.

    Attributes
    ----------
    judge, pool, lexicon : str
        What labelled the heads, and from what; empty where nothing did.
    properties : tuple of Property
        Those with the largest share first; such as no head carries last.
    unlabelled : tuple of str
        Heads that were looked at and got no label.
    scores : dict of str to float
        As ``label/scores`` has them.
    missing : dict of str to str
    """

    judge: str
    pool: str
    lexicon: str
    properties: tuple[Property, ...]
    unlabelled: tuple[str, ...]
    scores: dict[str, float]
    missing: dict[str, str]


@dataclass(frozen=True)
class Carrier:
    """A head that carries a property.

    Attributes
    ----------
    layer, head : int
    variance : float or None
        Of what it writes, on the published scale.
    part : float or None
        Of the head's variance, what the property's texts explain, where a list of properties was
        the judge.
    evidence : Evidence
    highest, lowest : tuple of Shown
        The images at the ends of its first principal component.
    """

    layer: int
    head: int
    variance: float | None
    part: float | None
    evidence: Evidence
    highest: tuple[Shown, ...]
    lowest: tuple[Shown, ...]


@dataclass(frozen=True)
class OtherHead:
    """A head that does not carry a property, and how much of its variance that explains."""

    layer: int
    head: int
    label: str | None
    part: float


@dataclass(frozen=True)
class PropertyView:
    """A property.

    Attributes
    ----------
    name : str
    judge, lexicon : str
    carriers : tuple of Carrier
        Those with most variance first.
    others : tuple of OtherHead
        The heads without this label in which it explains most.
    """

    name: str
    judge: str
    lexicon: str
    carriers: tuple[Carrier, ...]
    others: tuple[OtherHead, ...]


def properties(here: Opened) -> Properties:
    """The properties of a store's heads, of the labels that were asked for last."""
    result = here.latest("label")
    if result is None:
        return Properties("", "", "", (), (), {}, {"label": here.hint("label")})
    found = here.cached(("labelled", result.url), lambda: labelled(result))
    carried: dict[str, list[Head]] = {name: [] for name in all_names(here, result)}
    unlabelled = []
    for at, label in judged_labels(here).items():
        if label is None:
            unlabelled.append(at)
        else:
            carried.setdefault(label, []).append(at)
    listed = []
    for name, heads in carried.items():
        variances = {at: variance_of(here, at) for at in heads}
        heads.sort(key=lambda at: (-(variances[at][0] or 0.0), at))
        shares = [share for _, share in variances.values() if share is not None]
        listed.append(Property(name, names(heads), sum(shares) if shares else None))
    listed.sort(key=lambda p: (-(p.share or 0.0), -len(p.heads), p.name))
    return Properties(
        found.judge, found.pool, found.lexicon, tuple(listed), names(sorted(unlabelled)),
        found.scores, {},
    )  # fmt: skip


def names(heads: list[Head]) -> tuple[str, ...]:
    """Heads as addresses have them."""
    return tuple(f"{layer}.{head}" for layer, head in heads)


def all_names(here: Opened, result: Result) -> tuple[str, ...]:
    """All properties that there were to choose from, where that is known."""
    return tuple(dict.fromkeys(row[2] for row in parts_of(here, result)))


def parts_of(here: Opened, result: Result) -> list[tuple[int, int, str, float]]:
    """Layer, head, property, and the part of the head's variance that this explains."""
    found: list[tuple[int, int, str, float]] = here.cached(
        ("parts", result.url), lambda: property_rows(result)
    )
    return found


def property_view(here: Opened, name: str) -> PropertyView:
    """A property, and the heads that carry it.

    Raises
    ------
    NotHere
        If heads were not labelled, or nothing is called so.
    """
    result = here.latest("label")
    if result is None:
        raise NotHere(f"the heads of {here.name} were not labelled: {here.hint('label')} does")
    labels, parts = judged_labels(here), parts_of(here, result)
    known = dict.fromkeys([*all_names(here, result), *(x for x in labels.values() if x)])
    own = next((n for n in known if n.casefold() == name.strip().casefold()), None)
    if own is None:
        raise NotHere(f"no property is called {name[:40]!r}; there are: {', '.join(known)}")
    of = {(layer, head): share for layer, head, p, share in parts if p == own}
    carriers = [carrier(here, at, of.get(at)) for at, label in labels.items() if label == own]
    carriers.sort(key=lambda c: (-(c.variance or 0.0), c.layer, c.head))
    others = [OtherHead(*at, labels[at], part) for at, part in of.items() if labels[at] != own]
    others.sort(key=lambda o: -o.part)
    found = here.cached(("labelled", result.url), lambda: labelled(result))
    return PropertyView(own, found.judge, found.lexicon, tuple(carriers), tuple(others[:6]))


def carrier(here: Opened, at: Head, part: float | None) -> Carrier:
    """A head that carries a property."""
    evidence, points = evidence_of(here, at), cloud(here, *at)
    assert evidence is not None  # it is labelled
    ends: list[tuple[Shown, ...]] = [(), ()]
    if points is not None:
        ends = [
            tuple(
                Shown(int(i), said(here, int(i)), float(points.along_pn[0, i]))
                for i in points.best(0, ENDS, lowest)
            )
            for lowest in (False, True)
        ]
    return Carrier(*at, variance_of(here, at)[0], part, evidence, *ends)
