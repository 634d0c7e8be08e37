"""A plan as text for a terminal, without more digits than an estimate has."""

from collections.abc import Iterator
from textwrap import fill

from mnist_ocr.labelling.limits import Machines
from mnist_ocr.labelling.plan import THIS_MACHINE, Plan

LABEL, CELL = 20, 32
"""Columns of a row's name, and of each estimate."""

MAX_NAMED = 6
"""Kinds and formats that are named."""

MAX_WIDTH = 100
"""Columns of a line of text."""


def format_plan(plan: Plan) -> str:
    """What there is, what it takes by limit on each cluster, and what to do about the limit."""
    tables = (_describe_input(plan), _lay_out_estimates(plan), _write_notes(plan))
    return "\n\n".join("\n".join(lines) for lines in tables)


def _describe_input(plan: Plan) -> Iterator[str]:
    num_images, num_objects = plan.num_images or 1, plan.num_objects or 1
    endings = {name or "no ending": count / num_images for name, count in plan.kinds.items()}
    prefixes = f"{plan.num_prefixes:,} prefix{'es' * (plan.num_prefixes != 1)}"
    size = format_bytes(plan.size_bytes / num_objects)
    gets = plan.num_gets / num_images
    cost = plan.cost
    stages = {"fetch": cost.fetch, "decode": cost.decode, "predict": cost.predict}
    stages["write"] = cost.write
    spent = ", ".join(f"{name} {format_seconds(each)}" for name, each in stages.items())
    rows = {
        "input": plan.input_uri,
        "objects": f"{_count_objects(plan)}, over {prefixes}",
        "bytes": f"{format_bytes(plan.size_bytes)}, {size} an object",
        "images": f"{format_number(plan.num_images)}: {_name_shares(endings)}",
        "formats": f"{_name_shares(plan.formats)}, of {plan.num_sampled} that were read",
        "requests": f"{format_number(plan.num_gets)} GETs, {gets:.2g} an image",
        "seconds of a core": f"{spent}, for an image",
        "seconds of a GET": f"{format_seconds(cost.latency)}, one at a time",
    }
    return (f"{name:<{LABEL}}{text}" for name, text in rows.items())


def _count_objects(plan: Plan) -> str:
    if plan.relative_error is None:
        return f"at least {plan.num_objects:,} (not all were listed; an S3 Inventory is quick)"
    if plan.relative_error:
        pages = f"estimated from {plan.num_list_requests:,} pages of the listing"
        return f"{format_number(plan.num_objects)} (± {plan.relative_error:.0%}, {pages})"
    return f"{plan.num_objects:,}"


def _name_shares(shares: dict[str, float]) -> str:
    first = sorted(shares.items(), key=lambda item: -item[1])[:MAX_NAMED]
    texts = [f"{name} {_format_share(share)}" for name, share in first]
    if len(shares) > MAX_NAMED:
        texts.append(f"{len(shares) - MAX_NAMED} more")
    return ", ".join(texts)


def _lay_out_estimates(plan: Plan) -> Iterator[str]:
    found = plan.estimates
    yield _row("", [each.machines.name for each in found])
    yield _row("", [_describe_machines(each.machines) for each in found])
    for name in dict.fromkeys(name for each in found for name in each.hours):
        hours = (each.hours.get(name) for each in found)
        yield _row(name, ["-" if each is None else format_hours(each) for each in hours])
    yield _row("expected", [f"about {format_hours(each.num_hours)}" for each in found])
    yield _row("instances", [format_usd(each.instance_usd) for each in found])
    yield _row("or on spot, roughly", [format_usd(each.spot_usd) for each in found])
    yield _row("S3's requests", [format_usd(each.request_usd) for each in found])


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _describe_machines(machines: Machines) -> str:
    gpus = f", {machines.num_gpus:g} GPUs" if machines.num_gpus else ""
    return f"{machines.num_cpus:,} CPUs{gpus}"


def _write_notes(plan: Plan) -> Iterator[str]:
    notes = [f"{each.machines.name}: {each.advice}" for each in plan.estimates]
    bucket = "" if plan.is_on_s3 else "as if the objects lay in a bucket, "
    notes.append(
        f"EC2: {bucket}a vCPU taken for a core of this machine, data free within a region, prices "
        f"about those of {plan.prices_of} (--usd-per-hour sets another)."
    )
    if plan.estimates[0].machines.name == THIS_MACHINE:
        notes.append(
            f"{THIS_MACHINE}: its CPUs, without GPUs; RAY_ADDRESS=auto asks a Ray cluster that "
            "runs here, which label would join."
        )
    notes.append(
        "Ray's start comes on top. Small jobs take up to twice as long besides: workers start one "
        "after the other, and take whole shards, which come out uneven."
    )
    return (fill(note, MAX_WIDTH, subsequent_indent="  ") for note in notes)


def format_hours(hours: float) -> str:
    """`2.1 h`, `12 min`, `40 s`."""
    for unit, size in (("days", 48.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= size:
            return f"{_round(hours / (24 if unit == 'days' else size))} {unit}"
    return f"{_round(hours * 3600)} s" if hours * 3600 >= 1 else "under 1 s"


def format_seconds(seconds: float) -> str:
    """`12 µs`, `1.2 ms`, `0.3 s`."""
    for unit, size in (("s", 0.1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_round(seconds if unit == 's' else seconds / size)} {unit}"
    return f"{_round(seconds * 1e6)} µs"


def format_number(number: float) -> str:
    """`1,797`, `1.2 million`, `120 million`."""
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{_round(number / size)} {name}"
    return f"{number:,.0f}"


def format_bytes(size: float) -> str:
    """`340 B`, `4.2 GB`; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{_round(size)} {unit}"
        size /= 1000
    return f"{_round(size)} TB"


def format_usd(usd: float | None) -> str:
    """`under $0.01`, `$0.53`, `$120`; `-` where it is not known."""
    if usd is None:
        return "-"
    if 0 < usd < 0.01:
        return "under $0.01"
    return f"${usd:.2f}" if usd < 10 else f"${_round(usd)}"


def _format_share(share: float) -> str:
    """`100%`, `3%`, `0.01%`."""
    return f"{share:.0%}" if share == 1 or 0.01 <= share < 0.995 else f"{share:.2%}"


def _round(number: float) -> str:
    """Two digits, or the whole number."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"
