"""What limited a run: seconds by stage, and what would make it faster.

`list` runs beside the other stages. Those follow one another on a core, but for `predict` where
there are GPUs. What is left of the busier kind's seconds is `idle`: workers that start, that wait
for a shard, or that have none left while others still work.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mnist_ocr.traffic import Traffic

STAGES = ("fetch", "decode", "canonicalise", "predict", "write")
"""In the order of a shard's way."""

THROTTLED_SHARE = 0.01
"""Of the requests, from which on it is the store that sets the pace."""


@dataclass(frozen=True, kw_only=True)
class RunTimes:
    """How the workers of a run spent its seconds."""

    seconds: Mapping[str, float]
    """By stage, summed over all workers."""
    wall_s: float
    """From the start of the pipeline to its last shard."""
    num_cpus: float
    num_gpus: float
    num_images: int

    def load(self, stage: str) -> float:
        """Share of the seconds of the cores, or GPUs, that a stage runs on."""
        if stage == "idle":
            return max(1 - max(self._cpu_load, self.load("predict")), 0)
        num_workers = self.num_gpus if self.num_gpus and stage == "predict" else self.num_cpus
        return self.seconds.get(stage, 0) / (num_workers * self.wall_s)

    @property
    def _cpu_load(self) -> float:
        return sum(self.load(name) for name in STAGES if not (self.num_gpus and name == "predict"))

    def find_limit(self, traffic: Traffic, *, can_pack: bool = True) -> str:
        """One sentence: what took most, and the flag or resource that would move it.

        Args:
            traffic: Of the run's reading.
            can_pack: Whether reading from archives instead is a way.
        """
        is_remote, has_objects = bool(traffic.latencies), traffic.num_requests > self.num_images / 2
        pack = "read them from archives (mnist-ocr pack)" if can_pack and has_objects else ""
        throttled = traffic.num_throttled / max(traffic.num_requests, 1)
        if throttled > THROTTLED_SHARE:
            return f"the store, which refused {throttled:.0%} of the requests (503): " + _join(
                "spread the images over more prefixes", pack
            )
        if self.num_gpus and self.load("predict") > max(self._cpu_load, self.load("idle")):
            return "predict, on the GPUs: add GPUs."
        stages = [*STAGES, "idle"]
        if self.num_gpus:
            stages.remove("predict")
        name = max(stages, key=self.load)
        if name == "idle" and self.seconds.get("list", 0) > self.wall_s / 2:
            return "list, which workers waited for: " + _join("pass an S3 Inventory", pack)
        remedies = _REMEDIES.get(name, "")
        if name == "fetch":
            remedies = _join(pack, "add nodes") if is_remote else "add cores, or a faster disk."
        return f"{name}, {self.load(name):.0%} of the time: {remedies}"

    def format(self) -> str:
        """A line per stage."""
        kinds = f"{self.num_cpus:g} cores"
        if self.num_gpus:
            kinds += f" and {self.num_gpus:g} GPUs"
        lines = [f"{kinds} for {self.wall_s:.1f} s"]
        for name in filter(self.seconds.get, ("list", *STAGES)):
            seconds = self.seconds[name]
            share = "" if name == "list" else f"{self.load(name):.0%}"
            per_image = seconds / max(self.num_images, 1) * 1e6
            lines.append(f"  {name:<13}{seconds:9.1f} s{share:>6}{per_image:9.1f} us an image")
        return "\n".join([*lines, f"  {'idle':<24}{self.load('idle'):>6.0%}"])


def _join(*remedies: str) -> str:
    return ", or ".join(filter(None, remedies)) + "."


_REMEDIES = {
    "decode": "add cores.",
    "canonicalise": "add cores.",
    "predict": "add cores or GPUs, or label with a smaller model (train --recipe tiny).",
    "write": "write to a nearer store, or larger shards (--shard-size).",
    "idle": "workers started, or had no shard left; a running cluster saves the start.",
}
