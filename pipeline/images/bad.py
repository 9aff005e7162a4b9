"""Bad images by the kind of their reasons, and the first few of each kind by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import FacetError

NAMED = 3  # images of a kind
KINDS = 10  # that a summary shows


class TooManyBadImages(FacetError):
    """More images were bad than ``max_bad`` allows."""


@dataclass
class BadImages:
    """How many images are bad, by kind.

    Attributes
    ----------
    counts : Counter
        By what a reason says up to its first colon, as ``BadImage`` writes it.
    named : dict of str to list of str
        The first few of each kind, as ``key: detail``.
    """

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Iterable[str], reasons: Iterable[str | None]) -> BadImages:
        """Those of a run of images; a reason is None where the image is ok."""
        bad = cls()
        for key, reason in zip(keys, reasons, strict=True):
            if reason is not None:
                kind, _, detail = reason.partition(": ")
                bad._take(kind, 1, [f"{key}: {detail}" if detail else key])
        return bad

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take in what a ledger keeps of a finished shard."""
        for reason, count in facts.get("bad", {}).items():
            kind, _, detail = reason.partition(": ")  # parts of before hold whole reasons
            named = facts.get("bad_named", {}).get(kind)
            self._take(kind, count, [detail] if named is None and detail else named or [])

    def _take(self, kind: str, count: int, named: list[str]) -> None:
        self.counts[kind] += count
        known = self.named.setdefault(kind, [])
        known += named[: NAMED - len(known)]

    def total(self) -> int:
        return self.counts.total()

    def facts(self) -> dict[str, Any]:
        """What a ledger's part keeps of them; nothing is named where nothing is bad."""
        return {"bad": dict(self.counts)} | ({"bad_named": self.named} if self.named else {})

    def rows(self) -> dict[str, str]:
        """The most frequent kinds, for the table of a summary."""
        return {
            f"  bad: {kind}": f"{n:,}{self._names(kind, n)}"
            for kind, n in self.counts.most_common(KINDS)
        }

    def lines(self) -> str:
        """The most frequent kinds, one a line, for an error."""
        return "\n".join(
            f"  {n:,} × {kind}{self._names(kind, n)}"
            for kind, n in self.counts.most_common(KINDS // 2)
        )

    def _names(self, kind: str, count: int) -> str:
        named = self.named.get(kind, [])
        more = ", …" if count > len(named) else ""
        return f" ({', '.join(named)}{more})" if named else ""
