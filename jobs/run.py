"""Run the jobs of a run file, in order, in parallel where they do not need each other.

    facet run runs/nightly.yaml

The same command serves cron, a Kubernetes job and a retry: a stage whose job finds that it was
done before is skipped, images that the source has gained are picked up. Exit status: 0 if every
stage is finished, 1 if one failed, 2 for a mistake in the run file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import tyro

from jobs import cli, extract, second_order
from jobs.console import run_job, say_loading
from jobs.settings import arguments
from pipeline.run_file import RunFile, read_run
from storage import urls
from storage.errors import FacetError
from storage.metadata import Metadata


@dataclass(frozen=True)
class RunConfig:
    """Run the jobs of a run file."""

    file: tyro.conf.Positional[str]
    """The run file (YAML): store, images, model, and the stages."""


def main(config: RunConfig) -> None:
    """Check every stage, run what is not finished, sum up for people and for machines."""
    run_file = check(config)
    say_loading()
    from jobs.recipes.run import run

    run(run_file)


def check(config: RunConfig) -> RunFile:
    """Refuse a mistake in any stage: one in the last must not show after hours.

    Where a stage brings images, it is not known yet what later ones find in the store's tables.
    """
    run_file = read_run(config.file, cli.stages(), settings_of)
    planned: dict[str, Metadata] = {}
    for stage in run_file.stages:
        job, module = cli.config_of(stage.job), cli.job_module(stage.job)
        settings = tyro.cli(job, prog=f"facet {stage.job}", args=arguments(stage.settings))
        # Devices are not left to the stage: it joins the whole run's cluster, and would wait for
        # that to grow.
        try:
            if cli.JOBS[stage.job].reads:
                module.check(settings, planned.get(settings.store))
            else:
                module.check(settings)
        except FacetError as error:
            raise type(error)(f"stage {stage.name}: {error}", error.remedy) from error
        if isinstance(settings, extract.ExtractConfig):
            planned[settings.store] = extract.plan_store(settings)
        elif isinstance(settings, second_order.SecondOrderConfig) and settings.images is not None:
            planned[settings.store] = extract.plan_store(second_order.to_extract(settings))
    urls.check_writable(urls.absolute(run_file.store))
    return run_file


def settings_of(job: str) -> set[str]:
    """Names of a job's settings, as run files have them."""
    return {f.name.rstrip("_") for f in fields(cli.config_of(job))}


if __name__ == "__main__":
    run_job(main, tyro.cli(RunConfig, description=__doc__))
