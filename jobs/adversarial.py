"""Pictures of one class that the model takes for another, made from what its neurons confuse.

    facet adversarial --store out/ --drawn star --target heart
    facet adversarial --store out/ --drawn horse --target automobile --draw-with diffusers:MODEL

Neurons that speak for the target stand for other things, too. Their other texts are cues; cues and
the drawn class become descriptions, descriptions become pictures, and the model judges these. Each
stage keeps what it made, also of its parts: the same command goes on from there. A file may stand
in place of a stage. Baselines are in the same table: random neurons, indirect effects, similar
texts, no cues. The method is that of "Interpreting the Second-Order Effects of Neurons in CLIP"
(Gandelsman et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.checks import at_place, look
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, command, refuse_bounds, refuse_unused
from pipeline.adversarial.choices import ALIKE, CUES, NEURONS, WRITERS, parse_drawer
from pipeline.adversarial.files import read_text
from pipeline.adversarial.renderer import is_class
from pipeline.adversarial.rules import attribute_of
from pipeline.adversarial.synonyms import read_synonyms, refuse_sentences
from pipeline.adversarial.words import names
from pipeline.cluster.machines import Where
from pipeline.language.choices import Chosen, parse_choice, refuse_no_server
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.texts import Pool, load_classes, load_pool
from pipeline.texts.classes import Classes, nearest
from pipeline.texts.pools import listed_classes
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.adversarial import AdversarialRun
    from pipeline.models import ModelSpec

# What cues may come from where the chain itself finds them.
Mined = Literal["second-order", "random", "indirect", "similar", "none"]


@dataclass(frozen=True)
class AdversarialConfig:
    """Pictures of a class that the model takes for another, made from what its neurons confuse."""

    store: str
    """The store: a local path or an object-store URL."""
    drawn: str
    """The class that pictures show."""
    target: str
    """The class that the model should take them for."""
    classes: str | None = None
    """Where both are classes: microworld:<attribute>, imagenet, or a text file, as in facet omp; by
    default microworld:shape of a store of the embedded world, else any two names, with
    templates."""
    mlp_layers: str | None = None
    """MLP layers whose neurons are asked: last:3, 8-10; by default all that have codes over the
    pool."""
    pool: str | None = None
    """The pool of the codes, as in facet omp; by default that of the codes found last."""
    sources: tuple[Mined, ...] = ("second-order", "random", "indirect", "similar", "none")
    """Where cues come from. second-order is the method; the others are what it is held against:
    random neurons, neurons by their indirect effects (images pass through the model once a neuron),
    texts most like the difference of the classes, no cues at all."""
    neurons: int = NEURONS
    """Neurons that speak loudest for the target, over all layers."""
    cues: int = CUES
    """Texts of the neurons' codes that descriptions are made from."""
    synonyms: str | None = None
    """A text file of further names of the target, one a line: they are no cues, and no description
    has them."""
    sentences: str | None = None
    """A sentence-transformers model, by its name or its folder, that says which texts are synonyms
    of the target; by default the model's own text tower."""
    alike: float = ALIKE
    """Similarity with the target from which on a text is a synonym, and no cue."""
    repeats: int = 3
    """How often the experiment is done."""
    seed: int = 0
    """Decides random neurons, what is described and chosen, and what is drawn."""
    describe_with: str = "grammar"
    """What writes descriptions: grammar, which needs no model; openai:MODEL, of the server at
    OPENAI_BASE_URL, with the key in OPENAI_API_KEY; transformers:PATH, a folder with a causal
    language model."""
    ask: int = 50
    """Descriptions that are asked for, of each source and repeat."""
    descriptions: int = 10
    """Those of them that are drawn."""
    draw_with: str | None = None
    """What draws: microworld, the embedded world's renderer; diffusers:PATH-OR-NAME, a
    text-to-image pipeline; openai:MODEL, of the server as above; none, to end with the
    descriptions, which others may draw. By default microworld for a store of the embedded
    world."""
    pictures: int = 10
    """Pictures of each description."""
    keep: str | None = None
    """A person's list of the pictures that show the drawn class and not the target, a file name a
    line. The renderer of the embedded world needs none."""
    judge: str | None = None
    """In its place a second model, MODEL or MODEL/WEIGHTS of open_clip: a picture that it takes for
    the target counts as one of the target."""
    cues_from: str | None = None
    """A file in place of mining cues: a text a line, or the stage's table as Parquet or CSV."""
    descriptions_from: str | None = None
    """A file in place of writing descriptions: one a line, or the stage's table."""
    pictures_from: str | None = None
    """A file in place of drawing: a picture file a line, or the stage's table."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


# What draws where others are to.
NOBODY = "none"
# Settings of each stage, which a file in its place has no use for.
OF_CUES = ("mlp_layers", "pool", "sources", "neurons", "cues", "sentences", "alike")
OF_DESCRIPTIONS = ("describe_with", "ask", "descriptions", "repeats")
OF_PICTURES = ("draw_with", "pictures", "seed", "synonyms")


@dataclass(frozen=True)
class Asked:
    """What is asked for, read and checked.

    Attributes
    ----------
    pair : Classes
        The drawn class, then the target.
    attribute : str or None
        Of the embedded world: what they are values of.
    synonyms : tuple of str
    pool : Pool or None
    writer : Chosen
    drawer : Chosen or None
        None where pictures are given, or none are to be drawn.
    second : ModelSpec or None
        A second model that judges.
    """

    pair: Classes
    attribute: str | None
    synonyms: tuple[str, ...]
    pool: Pool | None
    writer: Chosen
    drawer: Chosen | None
    second: ModelSpec | None


def main(config: AdversarialConfig) -> AdversarialRun:
    """Check what can be told at once, then go from stage to stage."""
    choose_place(config)
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.adversarial import run

    return run(config, asked)


def check(config: AdversarialConfig) -> Asked:
    """Refuse what cannot work before any array is read; returns what was read on the way."""
    refuse_bounds(
        config, "alike", neurons=1, cues=1, repeats=1, seed=0, ask=1, descriptions=1, pictures=1
    )
    if not config.sources or len(set(config.sources)) < len(config.sources):
        raise FacetError("--sources: name at least one, and each once")
    if config.ask < config.descriptions:
        raise FacetError(
            f"--ask {config.ask}: of so many descriptions no --descriptions {config.descriptions} "
            "can be chosen: ask for more"
        )
    given = {name: getattr(config, f"{name}_from") for name in ("cues", "descriptions", "pictures")}
    if len([file for file in given.values() if file]) > 1:
        raise FacetError(
            "give one file, of the last stage that is not to run: what comes before it is in it"
        )
    unused: tuple[str, ...] = ()
    for (name, file), own in zip(
        given.items(), (OF_CUES, OF_DESCRIPTIONS, OF_PICTURES), strict=True
    ):
        unused += own
        if file is not None:
            refuse_file(f"{name}_from", file)
            refuse_unused(config, unused, f"a run without --{name}-from")
    if config.keep is not None:
        refuse_file("keep", config.keep)
        read_text(config.keep, "keep")
        if config.judge is not None:
            raise FacetError("give one of --keep and --judge: either says what is really there")
    if config.sentences is not None:
        refuse_sentences(config.sentences)
    synonyms = () if config.synonyms is None else read_synonyms(config.synonyms)
    pool = None if config.pool is None else load_pool(config.pool)
    _, meta = look(config.store, None, texts=True)
    world = meta.source.startswith("microworld")
    if config.mlp_layers is not None:
        parse_mlp_layers(config.mlp_layers, meta)
    writer = parse_choice("describe_with", config.describe_with, WRITERS)
    drawer = None
    if config.pictures_from is None:
        if config.draw_with is None and not world:
            raise FacetError(
                "say what draws: --draw-with diffusers:PATH-OR-NAME or openai:MODEL, or none, to "
                "end with the descriptions; or give pictures that you have, a file a line, by "
                "--pictures-from. Cues are told without any by "
                f"`{command('explore', store=config.store)}`"
            )
        if config.draw_with == NOBODY:
            refuse_unused(config, ("pictures", "keep", "judge"), "pictures, and none are drawn")
        else:
            drawer = parse_drawer(config.draw_with or "microworld")
    pair, attribute = pair_of(config, "microworld:shape" if world else None)
    if drawer is not None and drawer.kind == "microworld":
        for name in pair.names:
            if not is_class(name):
                raise FacetError(
                    f"--draw-with microworld draws shapes of the embedded world, and {name!r} is "
                    "nothing there: take another"
                )
        if config.keep or config.judge:
            refuse_unused(config, ("keep", "judge"), "pictures of which nobody knows what they are")
    for chosen in (writer, drawer):
        if chosen is not None:
            refuse_no_server(chosen)
    second = None
    if config.judge is not None:
        from pipeline.adversarial.judging import parse_second

        second = parse_second(config.judge)
    return Asked(pair, attribute, synonyms, pool, writer, drawer, second)


def refuse_file(setting: str, file: str) -> None:
    """Refuse a file that is not there, or is a folder."""
    if Path(file).is_dir():
        raise FacetError(
            f"`{setting}` {file} is a folder: give a file, such as a list of what is in it"
        )
    if not Path(file).is_file():
        raise FacetError(f"`{setting}` {file}: there is no such file")


def pair_of(config: AdversarialConfig, usual: str | None) -> tuple[Classes, str | None]:
    """The drawn class and the target, with the texts that mean them; their attribute, if any."""
    drawn, target = (" ".join(name.split()) for name in (config.drawn, config.target))
    if not drawn or not target:
        raise FacetError("--drawn and --target are names of classes, and one is empty")
    if drawn.lower() == target.lower():
        raise FacetError(f"--drawn and --target are both {target!r}: nothing could be confused")
    if names(drawn, target):
        raise FacetError(
            f"--drawn {drawn!r} names --target {target!r}, as any description of it would: take "
            "classes that are told apart by their names"
        )
    source = config.classes or usual
    if source is None:
        return listed_classes("--drawn and --target", [drawn, target]), None
    classes = load_classes(source)
    at = []
    for setting, name in (("drawn", drawn), ("target", target)):
        if name not in classes.names:
            raise FacetError(
                f"--{setting} {name!r} is no class of {source}{nearest(name, classes.names)}: give "
                "one of its classes, or others by --classes"
            )
        at.append(classes.names.index(name))
    prompts = tuple(classes.prompts[i] for i in at)
    return Classes((drawn, target), prompts, {drawn: 0, target: 1}), attribute_of(source)


if __name__ == "__main__":
    run_job(main, tyro.cli(AdversarialConfig, description=__doc__))
