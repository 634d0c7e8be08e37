"""Hours and dollars of a million to ten billion images, and what saturates first: docs/scale.md.

    .venv/bin/python benchmarks/scale.py --chart docs/scale.png

Costs and inputs: scale_inputs.py. The cluster: scale_cluster.py, scale_simulation.py. What was
measured against it: scale_checks.py. Prints the tables of docs/scale.md; takes half a minute; the
same seed gives the same tables. The last line of stdout is JSON.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_chart import draw_chart
from scale_checks import run_checks
from scale_cluster import Fleet, Settings, sum_machines
from scale_inputs import (
    BILLION,
    LOOSE,
    MILLION,
    MIXES,
    PARQUET,
    SIZES,
    TAR,
    USD_PER_MILLION_PAGES,
    build_work,
    time_listing,
)
from scale_simulation import Outcome, simulate

from mnist_ocr.labelling.instances import USD_PER_GET, USD_PER_PUT_OR_LIST
from mnist_ocr.labelling.limits import DRIVER_S_PER_SHARD, PUTS_PER_SHARD, estimate
from mnist_ocr.labelling.plan_table import format_hours, format_usd

KB_PER_SHARD = 6
"""Of the driver's memory, measured by scale_head.py."""

MANIFEST_BYTES, ROW_BYTES = 23, 71
"""Per image with names that count up, on S3: a manifest shard's Arrow, and Parquet with random
probabilities, 8,192 rows each."""

FOOTER_BYTES = 64 * 1024
"""That a resumed job reads of each finished file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chart", type=Path, help="where to draw, as PNG")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = Settings(seed=arguments.seed)
    document = tabulate(settings)
    for name, rows in document.items():
        print(f"\n{name}\n{format_table(rows)}")
    if arguments.chart:
        draw_chart(arguments.chart, settings)
    print(json.dumps({"seed": arguments.seed, **document}))


def tabulate(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """All tables by name, as rows."""
    jobs = list(tabulate_jobs(settings))
    return {
        "costs": list(tabulate_costs(jobs)),
        "limits": list(tabulate_limits()),
        "jobs": jobs,
        "what_if": list(tabulate_what_if(settings)),
        "head": list(tabulate_head()),
        "checks": list(tabulate_checks()),
    }


def run(form: str, num_images: float, fleets: Sequence[Fleet], settings: Settings) -> Outcome:
    """One job."""
    work = build_work(form, num_images)
    return simulate(work, fleets, settings, list_wait_s=time_listing(form, work))


def tabulate_limits() -> Iterable[dict[str, Any]]:
    """Images/s of each limit by itself, for a billion images under one prefix."""
    for mix, fleets in MIXES.items():
        if mix == "CPU on demand":
            continue
        for form in (LOOSE, TAR, PARQUET):
            found = estimate(build_work(form, BILLION), sum_machines(fleets))
            rates = {name: _round(BILLION / 3600 / hours) for name, hours in found.hours.items()}
            yield {"machines": found.machines.name, "input": form, **rates}


def tabulate_jobs(settings: Settings) -> Iterable[dict[str, Any]]:
    """Every size by every mix: time, dollars, what was busiest."""
    for size, (num_images, num_jobs) in SIZES.items():
        for form in (LOOSE, TAR, PARQUET):
            for mix, fleets in MIXES.items():
                found = run(form, num_images / num_jobs, fleets, settings)
                work = build_work(form, num_images)
                puts = PUTS_PER_SHARD * found.num_shards * num_jobs
                fee = work.num_gets * USD_PER_GET + (work.num_lists + puts) * USD_PER_PUT_OR_LIST
                machines_usd = found.usd * num_jobs
                yield {
                    "images": size,
                    "input": form,
                    "each job on": f"{sum_machines(fleets).name}, {mix.partition(' ')[2]}",
                    "jobs": num_jobs,
                    "time": format_hours(found.hours),
                    "of which nodes start": format_hours(found.hours - found.job_s / 3600),
                    "busiest": f"{found.limit} {found.loads[found.limit]:.0%}",
                    "machines": format_usd(machines_usd),
                    "S3's requests": format_usd(fee),
                    "$ per million": _round((machines_usd + fee) / num_images * MILLION),
                }


def tabulate_costs(jobs: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Dollars for a million images, of 100 million: machines, disks, head and requests."""
    chosen = [row for row in jobs if row["images"] == "100M"]
    for machines in dict.fromkeys(row["each job on"] for row in chosen):
        usd = {r["input"]: f"${r['$ per million']}" for r in chosen if r["each job on"] == machines}
        yield {"$ per million images": machines, **usd}
    price = f"${USD_PER_MILLION_PAGES:,.0f}"
    name = "OCR of a large cloud, about, pages"
    yield {"$ per million images": name, **dict.fromkeys((LOOSE, TAR, PARQUET), price)}


def tabulate_what_if(settings: Settings) -> Iterable[dict[str, Any]]:
    """100 million loose objects in one job, and a billion in tars: more nodes, worse luck."""
    two, many = [Fleet("c7i.2xlarge", 2)], [Fleet("c7i.2xlarge", 32)]
    often = replace(settings, interruptions_per_hour=0.5)
    cases = [
        ("as recommended", LOOSE, 100 * MILLION, two, settings),
        ("S3 never splits the prefix", LOOSE, 100 * MILLION, two, _without_splits(settings)),
        ("16 times the nodes", LOOSE, 100 * MILLION, many, settings),
        ("and 0.5 interruptions/h, drained", LOOSE, 100 * MILLION, many, often),
        ("not drained", LOOSE, 100 * MILLION, many, replace(often, is_drained=False)),
        ("as recommended", TAR, BILLION, two, settings),
        ("half the cores", TAR, BILLION, [Fleet("c7i.2xlarge", 1)], settings),
        ("0.5 interruptions/h, drained", TAR, BILLION, two, often),
        ("not drained", TAR, BILLION, two, replace(often, is_drained=False)),
        ("16 times the nodes", TAR, BILLION, many, settings),
    ]
    for name, form, num_images, fleets, own in cases:
        found = run(form, num_images, fleets, own)
        yield {
            "what": name,
            "input": form,
            "nodes": fleets[0].count,
            "time": format_hours(found.hours),
            "machines": format_usd(found.usd),
            "busiest": f"{found.limit} {found.loads[found.limit]:.0%}",
            "cores busy": f"{found.loads['cores']:.0%}",
            "nodes lost": found.num_lost_nodes,
            "shards repeated": f"{found.num_repeated:,} of {found.num_shards:,}",
            "partitions": found.num_partitions,
            "tail": format_hours(found.tail_s / 3600),
        }


def _without_splits(settings: Settings) -> Settings:
    return replace(settings, max_partitions=1)


def tabulate_head() -> Iterable[dict[str, Any]]:
    """What a job of so many images is for the head, whatever the workers."""
    for num_images in (MILLION, 100 * MILLION, 10 * BILLION):
        for shard_size in (8192, 65536):
            num_shards = num_images / shard_size
            yield {
                "images in one job": f"{num_images:,.0f}",
                "--shard-size": shard_size,
                "shards": _round(num_shards),
                "driver, hours of a core": format_hours(num_shards * DRIVER_S_PER_SHARD / 3600),
                "driver, MB": _round(num_shards * KB_PER_SHARD / 1e3),
                "manifest, MB": _round(num_images * MANIFEST_BYTES / MILLION),
                "output, MB": _round(num_images * ROW_BYTES / MILLION),
                "read to resume, MB": _round(num_shards * FOOTER_BYTES / MILLION),
            }


def tabulate_checks() -> Iterable[dict[str, Any]]:
    """Measured and predicted."""
    for check in run_checks():
        yield {
            "point": check.name,
            "measured, a second": _round(check.measured),
            "predicted": " to ".join(map(_round, check.predicted)),
            "measured / predicted": " to ".join(
                f"{check.measured / each:.2f}" for each in reversed(check.predicted)
            ),
        }


def format_table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown; what a row lacks is `-`."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[str(row.get(name, "-")) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _round(number: float) -> str:
    """Three digits."""
    return f"{float(f'{number:.3g}'):,.10g}"


if __name__ == "__main__":
    main()
