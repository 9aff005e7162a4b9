"""What the embedded world's captions say, and the class prompts for zero-shot tests."""

from __future__ import annotations

import itertools

import numpy as np

from .world import ATTRIBUTES, BACKGROUNDS, SHAPES, Scene

# A caption that names everything lets a model skip whatever is hard to see (shape, in
# trials); a random subset makes each attribute the only clue now and then.
MENTION_RATE = {
    "shape": 0.65,
    "colour": 0.25,
    "texture": 0.4,
    "size": 0.25,
    "count": 0.25,
    "place": 0.45,
    "background": 0.25,
}

NUMBER = {1: "one", 2: "two", 3: "three", 4: "four"}
PLURAL = {"cross": "crosses"}
WHERE = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle",),
}
SETTING = {
    "night": ("at night", "under a night sky"),
    "snow": ("on snow", "in the snow"),
    "grass": ("on grass", "in the grass"),
    "sand": ("on sand", "in the sand"),
    "sea": ("on the sea", "in the sea"),
    "bricks": ("on bricks", "in front of a brick wall"),
}
# A shape on a background; not an attribute, as it is two.
GROUP = "group"
OPENING = ("", "a picture of ", "a photo of ", "an image of ")


def _plural(noun: str) -> str:
    return PLURAL.get(noun, noun + "s")


def phrase(labels: dict, mentioned: set[str], setting: int = 0, where: int = 0) -> str:
    """A noun phrase that says what ``mentioned`` names, for example ``two red stars on snow``."""
    noun = labels["shape"] if "shape" in mentioned else "thing"
    many = labels["count"] > 1
    words = [labels[name] for name in ("size", "texture", "colour") if name in mentioned]
    words.append(_plural(noun) if many else noun)
    if "count" in mentioned:
        words.insert(0, NUMBER[labels["count"]])
    elif not many:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    if "background" in mentioned:
        words.append(SETTING[labels["background"]][setting % len(SETTING[labels["background"]])])
    if "place" in mentioned:
        words.append(WHERE[labels["place"]][where % len(WHERE[labels["place"]])])
    return " ".join(words)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption naming a random, non-empty subset of the scene's attributes."""
    mentioned = {name for name, rate in MENTION_RATE.items() if rng.random() < rate}
    if scene.count > 1:
        mentioned.discard("place")  # groups fill the picture
    if not mentioned:
        names = [n for n in MENTION_RATE if scene.count == 1 or n != "place"]
        mentioned = {names[rng.integers(len(names))]}
    setting, opening = rng.integers(2), OPENING[rng.integers(len(OPENING))]
    return opening + phrase(scene.labels(), mentioned, int(setting))


def class_prompts(attribute: str) -> dict[str, list[str]]:
    """Zero-shot prompts of every value of an attribute (their embeddings are averaged).

    Parameters
    ----------
    attribute : str
        A key of ``world.ATTRIBUTES``; or ``group``, what is shown on which background, as the
        image table's column of that name has it.

    Returns
    -------
    dict of str to list of str
        Value (as text) to its prompts, one thing and several.
    """
    prompts: dict[str, list[str]] = {}
    if attribute == GROUP:
        for shape, background in itertools.product(SHAPES, BACKGROUNDS):
            shown = [{"shape": shape, "background": background, "count": n} for n in (1, 2)]
            prompts[f"{shape}/{background}"] = [
                opening + phrase(labels, {"shape", "background"}, setting)
                for labels in shown
                for setting in range(2)
                for opening in OPENING
            ]
        return prompts
    for value in ATTRIBUTES[attribute]:
        texts = []
        for count in [value] if attribute == "count" else [1, 2]:
            if attribute == "place" and count > 1:
                continue
            labels = {"shape": "thing", "count": count, attribute: value}
            for setting in range(2 if attribute == "background" else 1):
                said = phrase(labels, {attribute}, setting)
                texts += [opening + said for opening in OPENING]
        prompts[str(value)] = texts
    return prompts
