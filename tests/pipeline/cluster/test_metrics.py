"""What a real Ray shows Prometheus of an extraction."""

import urllib.request

import ray
from prometheus_client.parser import text_string_to_metric_families

from pipeline.cluster import metrics
from pipeline.cluster.work import Report
from tests.processes import wait_for


@ray.remote(num_cpus=0)
class Actor:
    """Counts what it is told, as an extraction's actor does."""

    def count(self, report: Report) -> None:
        metrics.count_shard(report)

    def worker(self) -> str:
        return worker_id()


def worker_id() -> str:
    return ray.get_runtime_context().get_worker_id()


def scrape(workers: set[str]) -> dict[str, float]:
    """Our samples of the node's endpoint from these workers alone: others of the session count,
    too."""
    node = next(n for n in ray.nodes() if n["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    samples = (s for f in text_string_to_metric_families(text) for s in f.samples)
    return {
        " ".join([s.name, *(s.labels[tag] for tag in ("outcome", "stage") if tag in s.labels)]): (
            s.value
        )
        for s in samples
        if s.name.startswith("ray_facet_") and s.labels["WorkerId"] in workers
    }


def test_prometheus_sees_names_and_values(ray_cluster):
    actor = Actor.remote()
    report = Report(
        7, 100, {"bad": {"empty": 3}}, bytes=5000, compute_seconds=2.0, write_seconds=0.25
    )
    ray.get([actor.count.remote(report) for _ in range(2)])
    workers = {worker_id(), ray.get(actor.worker.remote())}
    metrics.show_queue(12, 4)
    metrics.count_retry()
    expected = {
        "ray_facet_images_total ok": 194,
        "ray_facet_images_total bad": 6,
        "ray_facet_shards_total": 2,
        "ray_facet_written_bytes_total": 10_000,
        "ray_facet_seconds_total compute": 4.0,
        "ray_facet_seconds_total write": 0.5,
        "ray_facet_shards_waiting": 12,
        "ray_facet_shards_under_way": 4,
    }

    def told() -> dict[str, float] | None:
        # Not only until all are there: what the driver showed in earlier tests is there already.
        seen = scrape(workers)
        return seen if expected.items() <= seen.items() else None

    seen = wait_for(told, pause=0.5)  # Ray reports every ten seconds
    assert seen["ray_facet_retries_total"] >= 1  # other tests of this session may lose shards
