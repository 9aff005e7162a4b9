"""The recipe of ``facet report``: whatever a store's results have found, on one page."""

from __future__ import annotations

from jobs.console import TELLER
from jobs.pages import reader, write
from jobs.report import ReportConfig, is_rosetta
from pipeline.cluster import machines
from pipeline.pages.report import store_page
from storage import open_store, urls


def run(config: ReportConfig, place: str) -> str:
    """Write the page; returns its URL."""
    machines.work("here")
    TELLER.say("reading what was found, and drawing it")
    if is_rosetta(urls.absolute(config.store)):
        from pipeline.rosetta.page import dictionary_page, find_dictionary

        shown = dictionary_page(find_dictionary(urls.absolute(config.store)))
    else:
        shown = store_page(reader(open_store(config.store), config.store, config.pretrained))
    write(place, shown)
    return place
