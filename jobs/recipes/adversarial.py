"""The recipe of ``facet adversarial``: cues, descriptions, pictures, and what the model makes of
them, a result each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jobs.adversarial import AdversarialConfig, Asked
from jobs.console import TELLER, console
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import ELIDED, command
from jobs.steps import embedded, opened
from pipeline.adversarial import cues, drawing, given, indirect, judging, rates
from pipeline.adversarial.answers import STAGES, Adversarial, adversarial, shown
from pipeline.adversarial.coded import CodedNeurons, coded_pool, coded_results, read_coded
from pipeline.adversarial.descriptions import PARTS as ANSWERS
from pipeline.adversarial.descriptions import describe
from pipeline.adversarial.files import read_text
from pipeline.adversarial.maps import maps_of
from pipeline.adversarial.pictures import draw_pictures, drawer_facts, drawer_identity
from pipeline.adversarial.rules import Rules
from pipeline.adversarial.synonyms import Synonyms, by_sentences, by_tower
from pipeline.adversarial.tables import CUES, DESCRIPTIONS, JUDGED, PICTURES
from pipeline.extraction.plan import parse_layers
from pipeline.heatmaps.choices import layers_of
from pipeline.identity import held
from pipeline.language.loading import choice_identity
from pipeline.pages.adversarial import (
    adversarial_page,
    adversarial_table,
    descriptions_table,
)
from pipeline.texts.classes import class_means, classes_digest
from pipeline.texts.encoding import TextEncoder
from storage import urls
from storage.errors import FacetError
from storage.results import Result, result_url
from storage.store import Store

JOB = "adversarial"
PAGE = "adversarial.html"
# Says of pictures' files whether the drawn class is there, and the target is not.
Looked = Callable[[Sequence[str]], Sequence[bool]]


@dataclass(frozen=True, eq=False)
class AdversarialRun:
    """What was found.

    Attributes
    ----------
    result : Result
        Of the last stage that ran.
    found : Adversarial or None
        None where nothing was to be drawn.
    """

    result: Result
    found: Adversarial | None


def run(config: AdversarialConfig, asked: Asked) -> AdversarialRun:
    """Go from stage to stage; what is there is found, and what is begun goes on."""
    started = time.monotonic()
    chain = Chain(config, asked, opened(config.store))
    stages: dict[str, Result] = {}
    if config.pictures_from is not None:
        stages["pictures"] = chain.given_pictures(config.pictures_from)
    else:
        if config.descriptions_from is not None:
            stages["descriptions"] = chain.given_descriptions(config.descriptions_from)
        else:
            stages["cues"] = (
                chain.given_cues(config.cues_from) if config.cues_from else chain.cues()
            )
            stages["descriptions"] = chain.descriptions(stages["cues"])
        if asked.drawer is None:
            return described(config, stages, started)
        stages["pictures"] = chain.pictures(stages["descriptions"])
    result = chain.judged(stages)
    found = adversarial(result)
    page = urls.join(result.url, PAGE)
    if not urls.exists(page):
        urls.put_bytes(page, adversarial_page(found, chain.store.meta).encode())
    console.print(adversarial_table(found))
    facts = {"drawn": found.drawn, "target": found.target, "judged": f"{len(found.judged):,}"}
    facts |= {name: stages[name].url for name in STAGES if name in stages} | {"page": page}
    following = command("show", "adversarial", store=config.store)
    show_done(facts, time.monotonic() - started, result, following)
    return AdversarialRun(result, found)


def described(
    config: AdversarialConfig, stages: dict[str, Result], started: float
) -> AdversarialRun:
    """Say which descriptions others are to draw, and what takes their pictures."""
    result = stages["descriptions"]
    rows = result.table("descriptions").to_pandas()
    chosen = rows[rows["chosen"]]
    console.print(descriptions_table(chosen))
    facts = {
        "descriptions": f"{len(chosen):,} of {len(rows):,}, to be drawn elsewhere",
        "the list": urls.join(result.url, "descriptions.parquet"),
    }
    following = command(
        "adversarial",
        store=config.store,
        drawn=config.drawn,
        target=config.target,
        classes=config.classes,
        pictures_from=ELIDED,
    )
    show_done(facts, time.monotonic() - started, result, following)
    return AdversarialRun(result, None)


class Chain:
    """The stages of one run.

    Parameters
    ----------
    config : AdversarialConfig
    asked : Asked
    store : Store
    """

    def __init__(self, config: AdversarialConfig, asked: Asked, store: Store) -> None:
        self.config, self.asked, self.store = config, asked, store
        self.drawn, self.target = asked.pair.names
        self.rules = Rules(self.drawn, self.target, asked.synonyms, asked.attribute)
        self.encoder = TextEncoder(store, config.pretrained)
        # What pictures that are given were called.
        self.own: dict[str, str] = {}
        # What decides every stage.
        self.about = {
            "store": store.meta.digest(),
            "pair": classes_digest(asked.pair),
            "attribute": asked.attribute,
            "synonyms": list(asked.synonyms),
        }

    def means(self) -> Any:
        """Unit embeddings of the drawn class and of the target, (2, E)."""
        rows = embedded(self.encoder, "the drawn class and the target", self.asked.pair.flat)
        return class_means(rows.embeddings, self.asked.pair)

    def keep(
        self, job: str, identity: dict[str, Any], facts: dict[str, Any], **what: Any
    ) -> Result:
        """Keep a stage."""
        return save(self.store.url, job, self.config, facts, identity=identity, **what)

    def stage(
        self, job: str, identity: dict[str, Any], make: Callable[[], Result], parts: str
    ) -> Result:
        """A stage's result, found or made, without the parts that it went on from.

        A run that was killed as it was done has left them.
        """
        result = found_or_made(self.store.url, job, identity, make)
        urls.remove(urls.join(result.url, parts))
        return result

    # -- cues ------------------------------------------------------------------------------

    def cues(self) -> Result:
        """Texts that neurons which speak for the target stand for, too; and the baselines'."""
        config = self.config
        results = coded_results(self.store, config.mlp_layers, self.asked.pool)
        mined = [name for name in config.sources if name != "none"]
        identity = {
            **self.about,
            "codes": {str(at): result.name for at, result in results.items()},
            "sources": mined,
            "neurons": config.neurons,
            "cues": config.cues,
            "sentences": None if config.sentences is None else held(config.sentences),
            "alike": config.alike,
        }
        if "random" in mined:
            identity |= {"seed": config.seed, "repeats": config.repeats}
        if "indirect" in mined:
            identity["indirect"] = self.indirect(results).name
        make = partial(self._mine, identity, results)
        return found_or_made(self.store.url, STAGES["cues"], identity, make)

    def _mine(self, identity: dict[str, Any], results: dict[int, Result]) -> Result:
        config, first = self.config, next(iter(results.values()))
        coded = read_coded(self.store, results)
        texts_me = coded_pool(self.store, first).embeddings
        means_2e = self.means()
        v_e = cues.direction_of(means_2e, 0, 1)
        if config.sentences is None:
            similarity = by_tower(coded.texts, texts_me, means_2e[1])
        else:
            with TELLER.wait("loading the model of sentences"):
                similarity = by_sentences(config.sentences, self.target)
        judge = Synonyms(self.rules, similarity, config.alike)
        if not any(self.rules.named(text, self.target) for text in coded.texts):
            TELLER.say(
                f"no text of the pool names {self.target}: what is like it stands for it, and "
                "synonyms show by their similarity alone"
            )
        found, neurons = [], []
        for source in identity["sources"]:
            repeats = config.repeats if source in cues.DRAWN_ANEW else 1
            for repeat in range(repeats):
                if source == "similar":
                    scores_m = cues.similar(texts_me, v_e)
                    rows = cues.pick(coded.texts, scores_m, judge, config.cues)
                    found.append(rows.assign(source=source, repeat=repeat))
                    continue
                of = coded
                if source == "indirect":
                    of = self._coded_indirect(self.indirect(results), coded)
                rows, chosen = cues.of_source(
                    source, of, v_e, judge, neurons=config.neurons, cues=config.cues,
                    seed=config.seed, repeat=repeat,
                )  # fmt: skip
                found.append(rows)
                neurons.append(chosen)
            if source == "second-order" and not found[-1]["used"].any():
                raise FacetError(
                    f"no text of the pool speaks for {self.target!r} rather than {self.drawn!r} "
                    f"without naming it ({len(found[-1])} do that name it or are alike): code the "
                    "neurons over a larger `pool`, or take more `neurons`"
                )
        tables = {"cues": pd.concat(found) if found else pd.DataFrame(columns=CUES["cues"].names)}
        tables["neurons"] = (
            pd.concat(neurons) if neurons else pd.DataFrame(columns=CUES["neurons"].names)
        )
        facts = {
            "drawn": self.drawn,
            "target": self.target,
            "mlp_layers": list(results),
            "texts": len(coded.texts),
            "neurons": len(coded.layers_n),
        }
        return self.keep(STAGES["cues"], identity, facts, tables=tables, schemas=CUES)

    def indirect(self, results: dict[int, Result]) -> Result:
        """Neurons in words by their indirect effects, over the pool of the codes."""
        numbers = indirect.sample_numbers(self.store)
        how = {at: (r.config["method"], int(r.config["terms"])) for at, r in results.items()}
        identity = {
            "store": self.store.meta.digest(),
            "images": numbers,
            "pool": next(iter(results.values())).provenance["identity"]["pool"],
            "codes": {str(at): list(of) for at, of in how.items()},
        }

        def make() -> Result:
            return self._find_indirect(identity, results, how)

        return self.stage(indirect.JOB, identity, make, indirect.PARTS)

    def _find_indirect(
        self, identity: dict[str, Any], results: dict[int, Result], how: dict[int, Any]
    ) -> Result:
        from pipeline.neurons.setup import cpu_model

        model = cpu_model(self.store, self.config.pretrained)
        sample = indirect.load_sample(self.store, identity["images"], TELLER)
        place = result_url(self.store.url, indirect.JOB, identity)
        directions, table = indirect.find_directions(
            self.store, model, list(results), sample, place, TELLER
        )
        pool = coded_pool(self.store, next(iter(results.values())))
        codes = indirect.code_directions(
            directions,
            pool.embeddings,
            pool.texts,
            how,
            TELLER,
        )
        by_layer = directions.by_layer
        components = xr.Dataset(
            {"direction": (("layer", "neuron", "embed"), np.stack(list(by_layer.values())))},
            {"layer": list(by_layer)},
        )
        result = self.keep(
            indirect.JOB, identity,
            {"mlp_layers": list(by_layer), "images": len(sample.images)},
            tables={"neurons": table, "codes": codes}, schemas=indirect.INDIRECT,
            arrays={"components": components},
        )  # fmt: skip
        return result

    def _coded_indirect(self, result: Result, coded: CodedNeurons) -> CodedNeurons:
        data = result.arrays("components")["direction"]
        directions = {int(at): data.sel(layer=at).values for at in data["layer"].values}
        return CodedNeurons.of(directions, result.table("codes").to_pandas(), coded.texts)

    def given_cues(self, file: str) -> Result:
        """Cues from a file."""
        identity = {"given": given.file_identity(file)}

        def make() -> Result:
            none = pd.DataFrame(columns=CUES["neurons"].names)
            tables = {"cues": given.read_cues(file), "neurons": none}
            return self.keep(STAGES["cues"], identity, {}, tables=tables, schemas=CUES)

        return found_or_made(self.store.url, STAGES["cues"], identity, make)

    # -- descriptions ----------------------------------------------------------------------

    def descriptions(self, stage: Result) -> Result:
        """Descriptions of the drawn class with cues in them."""
        config = self.config
        sources = list(config.sources)
        if config.cues_from is not None:
            sources = stage.table("cues")["source"].unique().to_pylist()
        identity = {
            **self.about,
            "cues": stage.name,
            "sources": sources,
            "writer": choice_identity(self.asked.writer),
            "ask": config.ask,
            "descriptions": config.descriptions,
            "repeats": config.repeats,
            "seed": config.seed,
        }
        place = result_url(self.store.url, STAGES["descriptions"], identity)

        def make() -> Result:
            by = cues.used_cues(stage.table("cues").to_pandas(), sources, config.repeats)
            found = describe(
                by, self.drawn, self.target, self.asked.synonyms, self.asked.writer, config.ask,
                config.descriptions, config.seed, place, TELLER, self.asked.attribute,
            )  # fmt: skip
            result = self.keep(
                STAGES["descriptions"], identity, found.facts,
                tables=found.tables, schemas=DESCRIPTIONS,
            )  # fmt: skip
            return result

        return self.stage(STAGES["descriptions"], identity, make, ANSWERS)

    def given_descriptions(self, file: str) -> Result:
        """Descriptions from a file."""
        identity = {**self.about, "given": given.file_identity(file)}

        def make() -> Result:
            none = pd.DataFrame(columns=DESCRIPTIONS["answers"].names)
            tables = {"descriptions": given.read_descriptions(file, self.rules), "answers": none}
            return self.keep(
                STAGES["descriptions"], identity, {}, tables=tables, schemas=DESCRIPTIONS
            )

        return found_or_made(self.store.url, STAGES["descriptions"], identity, make)

    # -- pictures --------------------------------------------------------------------------

    def pictures(self, stage: Result) -> Result:
        """Pictures of the chosen descriptions."""
        config, drawer = self.config, self.asked.drawer
        assert drawer is not None  # of a run that draws
        identity = {
            **self.about,
            "descriptions": stage.name,
            "drawer": drawer_identity(drawer),
            "pictures": config.pictures,
            "seed": config.seed,
        }
        place = result_url(self.store.url, STAGES["pictures"], identity)

        def make() -> Result:
            described = stage.table("descriptions").to_pandas()
            found = draw_pictures(
                described, drawer, self.drawn, self.target, config.pictures, config.seed, place,
                TELLER,
            )  # fmt: skip
            result = self.keep(
                STAGES["pictures"], identity, {"drawer": drawer.name, **drawer_facts(drawer)},
                tables={"pictures": found}, schemas=PICTURES,
            )  # fmt: skip
            return result

        return self.stage(STAGES["pictures"], identity, make, drawing.PARTS)

    def given_pictures(self, file: str) -> Result:
        """Pictures from a list of files."""
        table, files, self.own = given.read_pictures(file)
        identity = {"given": given.file_identity(file), "files": given.bytes_digest(files)}

        def make() -> Result:
            return self.keep(
                STAGES["pictures"], identity, {}, tables={"pictures": table}, schemas=PICTURES,
                files=files,
            )  # fmt: skip

        return found_or_made(self.store.url, STAGES["pictures"], identity, make)

    # -- what the model makes of them ------------------------------------------------------

    def judged(self, stages: dict[str, Result]) -> Result:
        """Margins, outcomes and rates, and maps of what speaks for the target."""
        config, second, drawn_at = self.config, self.asked.second, stages["pictures"]
        identity = {
            **self.about,
            "pictures": drawn_at.name,
            "keep": None if config.keep is None else held(config.keep),
            "judge": None if second is None else [second.model, held(second.pretrained)],
        }

        def make() -> Result:
            return self._judge(identity, stages)

        return self.stage(JOB, identity, make, judging.PARTS)

    def _looked(self, pictures: pd.DataFrame, read: judging.Read) -> Looked | None:
        """Who says whether the drawn class is there, of pictures whose drawer does not know."""
        config = self.config
        if config.keep is not None:
            files = {file: self.own.get(file, file) for file in pictures["file"] if file}
            kept = judging.kept_files(read_text(config.keep, "keep"), files, config.keep)
            return lambda files: [file in kept for file in files]
        if self.asked.second is not None:
            return judging.by_second(self.asked.second, self.asked.pair, read, TELLER)
        return None

    def _judge(self, identity: dict[str, Any], stages: dict[str, Result]) -> Result:
        at = stages["pictures"].url
        pictures = stages["pictures"].table("pictures").to_pandas()
        place = result_url(self.store.url, JOB, identity)
        means_2e = self.means()
        model = self.encoder.model("judges the pictures", TELLER)

        def read(file: str) -> bytes:
            return urls.read_bytes(urls.join(at, file))

        def margins(files: Any) -> Any:
            return judging.margins(model, means_2e, files, read, place, TELLER)

        told = judging.judge(pictures, margins, self._looked(pictures, read))
        table = rates.summary(told, pictures["text"].tolist())
        layers = parse_layers(layers_of(self.store.meta), self.store.meta.layers)
        files = shown(told)["file"].tolist()
        maps = maps_of(model, files, read, means_2e, layers, TELLER)
        facts = {
            "stages": {name: of.name for name, of in stages.items()},
            "pictures": len(told),
        } | ({"maps": len(maps["file"])} if maps is not None else {})
        result = self.keep(
            JOB, identity, facts,
            tables={"judged": told, "rates": rates.rates(told), "table": table},
            schemas=JUDGED,
            arrays={} if maps is None else {"maps": maps},
        )  # fmt: skip
        return result
