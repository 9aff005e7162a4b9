"""The recipe of ``facet concepts``: pictures in words, by several methods."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from jobs.concepts import Asked, ConceptsConfig
from jobs.console import TELLER, console, show_table
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened, reduced
from pipeline.concepts import found as kept
from pipeline.concepts import saved_counts
from pipeline.concepts.answers import Concepts, concepts_found, picture_file
from pipeline.concepts.by_codes import Dictionary, Rest, by_embedding, by_heads, rest_of
from pipeline.concepts.by_neurons import ByNeurons, layer_effects, long_of
from pipeline.concepts.choices import EMBEDDING_TERMS, HEAD_TERMS, OF_NEURONS, Method
from pipeline.concepts.codes import Coded, chosen_layers, read_codes
from pipeline.concepts.found import OfPicture
from pipeline.concepts.long import with_lengths
from pipeline.concepts.over import by_chance, over_table
from pipeline.concepts.picture import By, concepts_of
from pipeline.concepts.pools import pool_of_codes
from pipeline.concepts.precision import precision_table
from pipeline.concepts.scan import plan, scan, sizes
from pipeline.concepts.subset import Counts, Question, Truth, placed, source_of
from pipeline.concepts.tables import CONCEPTS, OVER
from pipeline.concepts.wrote import Wrote, keeps_neurons, seen, stored_parts, stored_rows
from pipeline.heads.roles import known_attributes
from pipeline.heatmaps.seen import Seen, see_file, see_image
from pipeline.identity import over
from pipeline.models import VisionModel
from pipeline.neurons.setup import cpu_model
from pipeline.pages.concepts import concepts_page, concepts_tables
from pipeline.pages.pictures import as_png
from pipeline.stats.choices import refuse_components
from pipeline.telling import several
from pipeline.texts.classes import texts_digest
from pipeline.texts.encoding import TextEncoder
from storage import urls
from storage.errors import FacetError, Remedy, StoreError
from storage.reductions import Reductions, as_spans
from storage.results import Result, result_url
from storage.store import Store

JOB = "concepts"
PAGE = "concepts.html"
# Moments that codes of heads, and of the embedding, take.
OF_HEADS, OF_EMBEDDING = ("heads", "mlps", "embedding"), ("embedding",)


@dataclass(frozen=True, eq=False)
class ConceptsRun:
    """What was found."""

    result: Result
    found: Concepts


def run(config: ConceptsConfig, asked: Asked) -> ConceptsRun:
    """Say what is in the pictures, or find what was said before; print it."""
    if config.where is not None:
        return run_subset(config, asked, config.where)
    started = time.monotonic()
    store = opened(config.store)
    coded = coded_by(store, asked)
    pictures = seen_pictures(store, asked)
    texts = texts_of(store, asked, coded)
    identity = {
        "pictures": [[of.name, _digest(of)] for of in pictures],
        **asked_of(store, config, asked, coded, texts),
        "top": config.top,
        "over": over(store),
    }

    def find() -> Result:
        urls.check_writable(store.url)
        encoder = TextEncoder(store, config.pretrained)
        methods, rest = methods_of(config, asked, store, encoder, coded, texts)
        found = []
        with TELLER.bar("pictures", len(pictures)) as move:
            for number, picture in enumerate(pictures):
                found.append(of_picture(store, encoder, methods, rest, picture, config.top))
                move(number + 1)
        return keep(config, store, found, pictures, methods, identity)

    result = found_or_made(store.url, JOB, identity, find)
    found = concepts_found(result)
    console.print(concepts_tables(found, config.top))
    facts = {
        "pictures": f"{len(pictures):,}",
        "methods": ", ".join(asked.methods),
        "page": urls.join(result.url, PAGE),
    }
    if long := result.provenance["long"]:
        facts["an active neuron's effect"] = "; ".join(f"layer {i}: {of}" for i, of in long.items())
    show_done(facts, time.monotonic() - started, result, command("report", store=config.store))
    return ConceptsRun(result, found)


def asked_of(
    store: Store,
    config: ConceptsConfig,
    asked: Asked,
    coded: Sequence[Coded],
    texts: tuple[str, tuple[str, ...]] | None,
) -> dict[str, Any]:
    """What of the identity pictures and subsets have in common."""
    return {
        "methods": list(asked.methods),
        "codes": [[of.mlp_layer, of.codes.name] for of in coded],
        "lengths": [as_spans(with_lengths(store, of.mlp_layer)) for of in coded],
        "texts": None if texts is None else texts_digest(texts[1]),
        "layers": list(asked.layers) if "heads" in asked.methods else [],
        "terms": config.terms,
    }


def run_subset(config: ConceptsConfig, asked: Asked, where: str) -> ConceptsRun:
    """Say what a subset's images have more of, and how true concepts are where that is known."""
    started = time.monotonic()
    store = opened(config.store)
    coded = coded_by(store, asked)
    texts = texts_of(store, asked, coded)
    identity = {
        "where": where,
        **asked_of(store, config, asked, coded, texts),
        "source": source_of(store, asked.methods, [of.mlp_layer for of in coded]),
        "known": bool(known_attributes(store)),
        "over": over(store),
    }

    def find() -> Result:
        urls.check_writable(store.url)
        inside, outside = sizes(store, where)
        question, model = question_of(config, asked, store, coded, texts, identity)
        planned = plan(question, store, model, TELLER)
        show_table("plan", planned.facts(inside, outside))
        place = result_url(store.url, JOB, identity)
        counts = scan(planned, place, TELLER)
        return keep_subset(config, store, question, counts, identity)

    result = found_or_made(store.url, JOB, identity, find)
    saved_counts.remove(result.url)  # a run that was killed as it was done has left them
    found = concepts_found(result)
    console.print(concepts_tables(found, config.top))
    known = result.provenance
    show_done(
        {
            "images": f"{known['inside']:,} in the subset, {known['images'] - known['inside']:,} "
            "others",
            **{f"surely more by {name}": said for name, said in known["surely"].items()},
            "page": urls.join(result.url, PAGE),
        },
        time.monotonic() - started,
        result,
        command("report", store=config.store),
    )
    return ConceptsRun(result, found)


def question_of(
    config: ConceptsConfig,
    asked: Asked,
    store: Store,
    coded: Sequence[Coded],
    texts: tuple[str, tuple[str, ...]] | None,
    identity: dict[str, Any],
) -> tuple[Question, VisionModel | None]:
    """What is counted of every shard, and the model, on the CPU, if it has to pass the images."""
    encoder, source = TextEncoder(store, config.pretrained), identity["source"]
    # Lengths that are kept need no model.
    ask = coded if source in ("coefficients", "model") else []
    found, _ = methods_of(config, asked, store, encoder, ask, texts)
    if source == "norms":
        by = ByNeurons(read_codes(coded, config.terms), long_of(store, coded), {}, published=True)
        found["published"] = by
    cpu = torch.device("cpu")
    methods: dict[str, By] = {name: placed(found[name], cpu) for name in asked.methods}
    truth = None
    if identity["known"] and (pool := _pool_of(store, encoder, coded, texts)) is not None:
        mean_e = _moments(store, False).array("embedding_mean").values
        truth = Truth(*pool, mean_e)
    question = Question(store.url, identity["where"], methods, source, truth)
    return question, cpu_model(store, config.pretrained) if source == "model" else None


def _pool_of(
    store: Store,
    encoder: TextEncoder,
    coded: Sequence[Coded],
    texts: tuple[str, tuple[str, ...]] | None,
) -> tuple[tuple[str, ...], NDArray[np.float32]] | None:
    """All texts that might be said, with their embeddings; None where they are not known."""
    if texts is not None:
        return texts[1], embedded(encoder, *texts).embeddings
    pools = [pool_of_codes(store, of.codes) for of in coded]
    known = next((pool for pool in pools if pool is not None), None)
    return None if known is None else (known.texts, known.embeddings)


def keep_subset(
    config: ConceptsConfig,
    store: Store,
    question: Question,
    counts: Counts,
    identity: dict[str, Any],
) -> Result:
    """Keep the tables and their page."""
    inside, outside = counts.images
    by_method = {
        name: over_table(counts.over[name], by.texts, name) for name, by in question.methods.items()
    }
    tables = {"over": pd.concat(by_method.values(), ignore_index=True)}
    if counts.precision is not None:
        tables["precision"] = precision_table(counts.precision)
    by = next((by for by in question.methods.values() if isinstance(by, ByNeurons)), None)
    facts = {
        "images": inside + outside,
        "inside": inside,
        "mlp_layers": list(question.layers),
        "long": {} if by is None else {str(at): of.words for at, of in by.long.items()},
        "surely": {
            name: f"{(rows['low_all'] > 0).sum():,} of {several(len(rows), 'text')}; told one by "
            f"one {(rows['low'] > 0).sum():,}, of which {by_chance(len(rows)):.0f} by chance"
            for name, rows in by_method.items()
        },
    }
    shown = Concepts(
        None, None, None, tables["over"], tables.get("precision"), [], [], config.where, {}
    )
    return save(
        store.url, JOB, config, facts,
        identity=identity,
        tables=tables,
        schemas=OVER,
        files={PAGE: concepts_page(shown, store.meta).encode()},
    )  # fmt: skip


def coded_by(store: Store, asked: Asked) -> list[Coded]:
    """Layers whose neurons are asked; none where no method asks any."""
    if not OF_NEURONS & set(asked.methods):
        return []
    pool = None if asked.pool is None else (asked.pool.source, texts_digest(asked.pool.texts))
    return chosen_layers(store, asked.mlp_layers, pool)


def texts_of(
    store: Store, asked: Asked, coded: Sequence[Coded]
) -> tuple[str, tuple[str, ...]] | None:
    """Name and texts of the dictionary of heads and embedding; None where neither is asked.

    Raises
    ------
    FacetError
        If no pool is given and there are no codes to take it from.
    """
    if not set(asked.methods) - OF_NEURONS:
        return None
    if asked.pool is not None:
        return asked.pool.source, asked.pool.texts
    for of in reversed(coded or _any_coded(store)):
        if (pool := pool_of_codes(store, of.codes)) is not None:
            return pool.source, pool.texts
    raise FacetError(
        f"no neurons are coded in {store.url}, whose pool would be taken: say which texts may be "
        "said with `pool`"
    )


def _any_coded(store: Store) -> list[Coded]:
    try:
        return chosen_layers(store)
    except StoreError:
        return []


def methods_of(
    config: ConceptsConfig,
    asked: Asked,
    store: Store,
    encoder: TextEncoder,
    coded: Sequence[Coded],
    texts: tuple[str, tuple[str, ...]] | None,
) -> tuple[dict[Method, By], Rest | None]:
    """All that is needed of each method but the pictures; what tells what codes of heads leave."""
    found: dict[Method, By] = {}
    rest = None
    if coded:
        model = encoder.model("asks its neurons", TELLER)
        effects = layer_effects(store, model, coded)
        by = ByNeurons(read_codes(coded, config.terms), long_of(store, coded), effects)
        found = {
            m: replace(by, published=m == "published") for m in asked.methods if m in OF_NEURONS
        }
    if texts is not None:
        source, pool = texts
        try:
            dictionary = Dictionary.of(pool, embedded(encoder, source, pool).embeddings)
        except ValueError as error:
            raise FacetError(f"pool {source}: {error}") from error
        moments = _moments(store, "heads" in asked.methods)
        if "heads" in asked.methods:
            terms = config.terms or HEAD_TERMS
            found["heads"] = by_heads(store, dictionary, moments, asked.layers, terms)
            rest = rest_of(store, moments)
        if "embedding" in asked.methods:
            terms = config.terms or EMBEDDING_TERMS
            found["embedding"] = by_embedding(dictionary, moments, terms)
    return {method: found[method] for method in asked.methods if method in found}, rest


def _moments(store: Store, heads: bool) -> Reductions:
    """Means over the store's images, made where they are missing."""
    components = OF_HEADS if heads else OF_EMBEDDING
    refuse_components(store.url, store.meta, components)
    return reduced(store, None, components)


def seen_pictures(store: Store, asked: Asked) -> list[Seen]:
    """The pictures as the model sees them."""
    files = [see_file(store.meta, name, data) for name, data in asked.pictures.items()]
    named = zip(asked.pictures, files, strict=True)
    return [
        *(see_image(store, image) for image in asked.images),
        *(replace(of, name=name) for name, of in named),
    ]


def _digest(picture: Seen) -> str:
    return hashlib.sha256(picture.pixels.tobytes()).hexdigest()


def of_picture(
    store: Store,
    encoder: TextEncoder,
    methods: dict[Method, By],
    rest: Rest | None,
    picture: Seen,
    top: int,
) -> OfPicture:
    """What every method says of a picture."""
    wrote = wrote_of(store, encoder, methods, picture)
    told = [
        concepts_of(method, by, wrote, top, rest, store.meta.grid) for method, by in methods.items()
    ]
    return OfPicture(picture.name, picture.image, told)


def wrote_of(store: Store, encoder: TextEncoder, methods: dict[Method, By], picture: Seen) -> Wrote:
    """What the methods take of a picture: what the store keeps of heads, the rest by a pass.

    Of a picture that is not to be had as it was, neurons are as the store keeps them, too, and
    nothing says where in the picture anything is.

    Raises
    ------
    FacetError
        If it is not to be had, and the store does not keep what is asked.
    """
    by = next((by for by in methods.values() if isinstance(by, ByNeurons)), None)
    layers = [] if by is None else list(by.long)
    parts = bool(set(methods) - OF_NEURONS)
    are_kept = picture.finished and {"heads", "mlps"} <= set(store.meta.components)
    found = Wrote({})
    if parts and are_kept:
        assert picture.image is not None
        found = replace(found, parts=stored_parts(store, picture.image))
    if not layers and (found.parts is not None or not parts):
        return found
    if picture.unreadable is not None:
        if (found.parts is None and parts) or not keeps_neurons(store, picture.image or 0, layers):
            raise FacetError(
                f"`image` {picture.image} is not to be had as it was ({picture.unreadable}), and "
                f"{store.url} does not keep what is asked of it",
                Remedy.first(
                    "second_order", store.url,
                    mlp_layers=",".join(map(str, layers)), keep="coefficients",
                ),
            )  # fmt: skip
        assert picture.image is not None  # files can be read
        device = encoder.model("asks its neurons", TELLER).device
        return replace(found, rows=stored_rows(store, picture.image, layers, device))
    model = encoder.model("sees the pictures", TELLER)
    pixels = torch.from_numpy(np.array(picture.pixels))[None].to(model.device)
    passed = seen(model, model.preprocess.to_tensor(pixels), layers, parts and found.parts is None)
    return replace(passed, parts=passed.parts or found.parts)


def keep(
    config: ConceptsConfig,
    store: Store,
    found: Sequence[OfPicture],
    pictures: Sequence[Seen],
    methods: dict[Method, By],
    identity: dict[str, Any],
) -> Result:
    """Keep tables, maps, pictures and their page."""
    by = next((by for by in methods.values() if isinstance(by, ByNeurons)), None)
    facts = {
        "pictures": len(found),
        "unreadable": {of.name: of.unreadable for of in pictures if of.unreadable is not None},
        "long": {} if by is None else {str(at): of.words for at, of in by.long.items()},
        "mlp_layers": [] if by is None else list(by.long),
    }
    tables, arrays = kept.tables(found), kept.arrays(found)
    shown = kept.concepts(tables, arrays, {of.name: of.pixels for of in pictures})
    files = {picture_file(i): as_png(Image.fromarray(of.pixels)) for i, of in enumerate(pictures)}
    return save(
        store.url, JOB, config, facts,
        identity=identity,
        tables=tables,
        schemas=CONCEPTS,
        arrays=arrays,
        files={**files, PAGE: concepts_page(shown, store.meta).encode()},
    )  # fmt: skip
