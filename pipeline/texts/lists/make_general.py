"""Write ``general.txt``: image descriptions from lists, one property of a picture each.

``python -m pipeline.texts.lists.make_general`` writes the file beside this script; the same
lists always give the same file. A row of ``TABLE`` is a kind of property: templates on the
left, what fills them on the right. In a template ``{x}`` is the word, ``{X}`` the word with a
capital, ``{a}`` and ``{A}`` the word with its article.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import words

FILE = Path(__file__).with_name("general.txt")

# Spelled with a vowel, spoken with a consonant; and the other way round.
_CONSONANT = ("uni", "use", "euro", "uku", "one-", "uti")
_VOWEL = ("hour", "honest", "heir", "x-ray")

TABLE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("An image with {a} color", "{X} tones throughout the picture"), words.COLORS),
    (("{A} object", "Something {x} against a plain wall"), words.BASIC_COLORS),
    (("A picture with {x}",), words.PALETTES),
    (("A close-up of {x} texture", "A surface made of {x}"), words.MATERIALS),
    (("An image with {x} patterns", "{X} fabric"), words.PATTERNS),
    (("Something that feels {x}", "{A} surface"), words.SURFACES),
    (("{A}", "An object shaped like {a}", "A picture composed around {a}"), words.SHAPES),
    (
        ("The letter {X}", "A photo with the letter {X}", "A word that starts with {X}"),
        words.LETTERS,
    ),
    (("The number {x}", "An image of the number {x}"), words.NUMBERS),
    (("An image with {x}",), words.COUNTED),
    (("A photograph taken in {x}",), words.CITIES),
    (("A photo from {x}", "A street scene in {x}"), words.COUNTRIES),
    (("An image of {x}", "A wide view of {x}"), words.LANDSCAPES),
    (("A picture taken inside {a}", "{A} without people"), words.INDOORS),
    (("A picture taken at {a}", "{A} full of people"), words.OUTDOORS),
    (("{A} seen from outside", "The entrance of {a}"), words.BUILDINGS),
    (("A detail of {x}",), words.ARCHITECTURE),
    (("A scene in {x}", "{X} light", "A landscape in {x}", "Clothes for {x}"), words.SEASONS),
    (("A photo taken in {x}", "A calendar page for {x}"), words.MONTHS),
    (("A photograph taken at {x}", "A city at {x}", "A forest at {x}"), words.TIMES),
    (("A picture with {x}", "A street in {x}", "{X} over the sea"), words.WEATHER),
    (("A photo of {a}", "{A} in its natural surroundings"), words.MAMMALS),
    (("A photo of {a}", "{A} seen up close"), words.BIRDS),
    (("A photo of {a}", "A drawing of {a}"), words.SEA_AND_REPTILES),
    (("A macro photograph of {a}",), words.INSECTS),
    (("A picture of {x}", "{X} in a garden"), words.PLANTS),
    (("{A} at work", "A portrait of {a}"), words.PROFESSIONS),
    (("A photo that shows {x}", "A face full of {x}", "An artwork about {x}"), words.EMOTIONS),
    (("A person {x}", "A group of people {x}"), words.ACTIVITIES),
    (("{X}",), words.PEOPLE),
    (("A close-up of {x}",), words.BODY),
    (("{A}", "A person wearing {a}"), words.CLOTHES),
    (("{A}", "A person with {a}"), words.ACCESSORIES),
    (("A plate of {x}", "{X} seen from above"), words.DISHES),
    (("A bowl of {x}", "A market stall with {x}"), words.PRODUCE),
    (("A glass of {x}",), words.DRINKS),
    (("A photo of {a}", "{A} in motion"), words.VEHICLES),
    (("An image of {a}", "{A} on a table"), words.THINGS),
    (("{A} in a room",), words.FURNITURE),
    (("A photo of {a}",), words.TOOLS),
    (("A musician with {a}", "{A} on a stage"), words.INSTRUMENTS),
    (("{X}", "A match of {x}"), words.GAMES),
    (("A person doing {x}",), words.SPORTS),
    (("An artwork in the style of {x}", "{X}"), words.STYLES),
    (("{A}",), words.MEDIA),
    (("An image in {x}", "A portrait in {x}"), words.LIGHTING),
    (("{X}",), words.COMPOSITION),
    (("{X}",), words.POSITIONS),
    (("{A} photograph",), words.QUALITIES),
    (("An image that contains {x}",), words.WRITING),
    (("A picture from the {x}", "Fashion of the {x}"), words.ERAS),
    (("A celebration of {x}",), words.HOLIDAYS),
    (("A photo of {a}",), words.EVENTS),
    (("An image that stands for {x}",), words.IDEAS),
    (("{A} atmosphere",), words.MOODS),
    (("{A} thing",), words.STATES),
    (("{X}",), words.RELATIONS),
    (("{X}",), words.TECHNICAL),
)


def with_article(word: str) -> str:
    """``a`` or ``an`` and the word, by its sound."""
    low = word.lower()
    vowel = low.startswith(_VOWEL) or (low[0] in "aeiou" and not low.startswith(_CONSONANT))
    return f"{'an' if vowel else 'a'} {word}"


def fill(template: str, word: str) -> str:
    """The template with the word in it, its first letter a capital."""
    article = with_article(word)
    forms = {"{x}": word, "{X}": word[0].upper() + word[1:], "{a}": article}
    forms["{A}"] = article[0].upper() + article[1:]
    for mark, form in forms.items():
        template = template.replace(mark, form)
    return template[0].upper() + template[1:]


def split(block: str) -> list[str]:
    """The entries of a comma-separated block of words."""
    return [re.sub(r"\s+", " ", entry).strip() for entry in block.split(",")]


def descriptions() -> list[str]:
    """All descriptions, in the table's order, each once."""
    texts = (
        fill(template, word)
        for templates, block in TABLE
        for word in split(block)
        for template in templates
    )
    return list(dict.fromkeys(texts))


if __name__ == "__main__":
    FILE.write_text("\n".join(descriptions()) + "\n", encoding="utf-8")
