"""A name is met in the singular and the plural, and not within other words."""

import pytest

from pipeline.adversarial.words import names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A truck on a road.", "truck"),
        ("two Trucks, side by side", "truck"),
        ("the truck's wheels", "truck"),
        ("the trucks’ wheels", "truck"),
        ("a stop-sign in the rain", "stop sign"),
        ("stop signs", "stop-sign"),
        ("crosses", "cross"),
        ("a cross", "crosses"),
        ("ponies and wolves", "pony"),
        ("ponies and wolves", "wolf"),
        ("sharp knives", "knife"),
        ("three firemen", "fireman"),
        ("mice", "mouse"),
        ("hearts on snow", "heart"),
    ],
)
def test_what_is_named(text, name):
    assert names(text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cart", "car"),
        ("a trucker", "truck"),
        ("a sign to stop", "stop sign"),
        ("a catalogue", "cat"),
        ("earth", "heart"),
        ("", "heart"),
        ("a heart", ""),
        ("stop", "stop sign"),
    ],
)
def test_what_is_not_named(text, name):
    assert not names(text, name)
