"""A page that shows what a store's results have found: one file, pictures inside.

    facet report --store out/
    facet report --store s3://bucket/laion --out laion.html

It reads what other jobs have found and computes nothing that takes long: what is not there yet
stands at its end, with the commands that find it. For what `facet rosetta` found, it is the
dictionary of units that models share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import tyro

from jobs.console import run_job, say_loading
from storage import urls, views
from storage.layout import SETUP

NAME = "report.html"


@dataclass(frozen=True)
class ReportConfig:
    """A page that shows what a store's results have found."""

    store: str
    """The store: a local path or an object-store URL; or where facet rosetta wrote."""
    out: str | None = None
    """Where the page goes: a file that ends in .html, or a folder; a local path or an
    object-store URL. By default report.html in the store."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was: neurons are
    then shown where they fire."""


def main(config: ReportConfig) -> str:
    """Check that there is something to read and a place to write to, then make the page."""
    place = check(config)
    say_loading()
    # Weights that are not on this machine are not sent for.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from jobs.recipes.report import run

    return run(config, place)


def check(config: ReportConfig) -> str:
    """Refuse what cannot work before anything is read; returns where the page goes."""
    url, place = urls.absolute(config.store), page_url(config)
    if not is_rosetta(url):
        views.find(url)
    folder = place.rpartition("/")[0]
    if config.out is None:
        urls.check_writable(folder, also="put the page elsewhere, at `out` PATH")
    else:
        urls.check_writable(folder, "out")
    return place


def is_rosetta(url: str) -> bool:
    """Whether it is a place where facet rosetta wrote."""
    return urls.exists(urls.join(url, SETUP))


def page_url(config: ReportConfig) -> str:
    """Where the page goes."""
    if config.out is None:
        return urls.join(urls.absolute(config.store), NAME)
    out = urls.absolute(config.out)
    return out if out.endswith((".html", ".htm")) else urls.join(out, NAME)


if __name__ == "__main__":
    run_job(main, tyro.cli(ReportConfig, description=__doc__))
