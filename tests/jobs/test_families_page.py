"""The page of families is what its command makes."""

from jobs import families_page
from pipeline.models.families import FAMILIES
from storage.metadata import READINGS


def test_the_page_is_the_commands():
    made = "run `python -m jobs.families_page`"
    assert families_page.PAGE.read_text(encoding="utf-8") == families_page.page(), made


def test_every_family_and_tail_is_told():
    assert set(FAMILIES) <= set(families_page.FAMILY)
    assert set(READINGS) == set(families_page.TAILS)
