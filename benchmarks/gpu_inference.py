"""Images per second on a GPU: our runtime against the bare forward pass of the same network.

    .venv/bin/python benchmarks/gpu_inference.py

It needs a GPU to mean anything; without one it only shows that it runs:

    .venv/bin/python benchmarks/gpu_inference.py --num-images 256 --batch-sizes 64 --rounds 1

No Ray, and no files. The shipped CNN, on scikit-learn's digits over and over; sides, alternated
after one run of each to warm up:

    forward, ...  the network alone, again and again on one normalised batch that is on the device:
                  types, memory formats, and with --compile torch.compile's modes, by batch size
    resident      `TorchRuntime`'s model on uint8 images on the device: normalises them, too
    host          `TorchRuntime.run` on images in host memory: copies both ways
    copy          the same images from pinned memory to the device, and nothing else

All are compared with the fastest `forward`. Convolutions in float32 may use TF32, as torch does by
default. For each `forward` stands how many digits of its batch are not those of float32. Compiling
takes minutes: give one batch size with it. The last line of stdout is JSON.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from machine import describe_machine
from numpy.typing import NDArray
from torch import Tensor

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.inference import DigitModel, TorchRuntime
from mnist_ocr.digits.model import load_model
from mnist_ocr.training.datasets import load_digit_pages

COMPILE_MODES = ("default", "max-autotune")

Side = Callable[[], object]
"""Labels all images once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-images", type=int, default=1 << 20, help="a multiple of each batch")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1024, 8192, 65536])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--compile", action="store_true", help="compiled variants, too")
    arguments = parser.parse_args()
    torch.compiler.config.recompile_limit = (
        64  # each variant counts; 8 by default, then silently not
    )
    pages, _ = load_digit_pages()["train"]
    images = np.resize(prepare_images(pages, len(pages)).images, (arguments.num_images, 28, 28))
    runtime = TorchRuntime(load_model(None))
    with torch.inference_mode():
        resident = torch.from_numpy(images).to(runtime._device)
        sides = build_runtime_sides(runtime, images, resident)
        forwards: dict[str, Side] = {}
        other_digits: dict[str, int] = {}
        for batch_size in arguments.batch_sizes:
            some = build_forward_sides(
                runtime._model, resident[:batch_size], arguments.num_images, arguments.compile
            )
            forwards |= {name: side for name, (side, _) in some.items()}
            other_digits |= {name: count for name, (_, count) in some.items()}
        seconds = measure({**forwards, **sides}, arguments.rounds)
    rates = {name: arguments.num_images / value for name, value in seconds.items()}
    report(rates, max(forwards, key=lambda name: rates[name]), other_digits, arguments.rounds)


def build_runtime_sides(
    runtime: TorchRuntime, images: NDArray[np.uint8], resident: Tensor
) -> dict[str, Side]:
    """All images by our own runtime, from the device and from the host; and the copy alone."""
    model, host = runtime._model, torch.from_numpy(images)
    if resident.is_cuda:
        host = host.pin_memory()

    def label_resident() -> list[Tensor]:
        return [model(batch)[0] for batch in resident.split(runtime.batch_size)]

    def copy() -> list[Tensor]:
        batches = host.split(runtime.batch_size)
        return [batch.to(resident.device, non_blocking=True, copy=True) for batch in batches]

    return {"resident": label_resident, "host": lambda: runtime.run(images), "copy": copy}


def build_forward_sides(
    model: DigitModel, images: Tensor, num_images: int, with_compiled: bool
) -> dict[str, tuple[Side, int]]:
    """The network on one batch, often enough for `num_images`, in every variant.

    Args:
        model: Whose network and normalisation are used.
        images: The batch, (B, 28, 28) uint8 on the device.
        num_images: A multiple of B.
        with_compiled: torch.compile's variants, too.

    Returns:
        By name: the side, and how many digits of the batch are not those of float32.
    """
    inputs = images.to(torch.float32).unsqueeze(1) * model.scale + model.shift
    digits = model.network(inputs).argmax(1)
    sides = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            network = deepcopy(model.network).to(dtype=dtype, memory_format=memory_format)
            batch = inputs.to(dtype=dtype, memory_format=memory_format, copy=True)
            variants: dict[str, Callable[[Tensor], Tensor]] = {"": network}
            if with_compiled and memory_format is torch.channels_last:
                for mode in COMPILE_MODES:
                    variants[f", {mode}"] = torch.compile(network, mode=mode, dynamic=False)
            for variant, forward in variants.items():
                layout = str(memory_format).removeprefix("torch.").removesuffix("_format")
                kind = str(dtype).removeprefix("torch.")
                name = f"forward, {kind}, {layout}{variant}, {len(batch)}"
                other_digits = int((forward(batch).argmax(1) != digits).sum())
                count = num_images // len(batch)
                sides[name] = (partial(run_forward, forward, batch, count), other_digits)
    return sides


def run_forward(forward: Callable[[Tensor], Tensor], batch: Tensor, count: int) -> None:
    for _ in range(count):
        forward(batch)


def measure(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
        print(f"round {round_number}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(
    rates: dict[str, float], fastest: str, other_digits: dict[str, int], rounds: int
) -> None:
    """A table for people, a line of JSON for programs."""
    print(f"| side | images/s | of `{fastest}` | other digits |")
    print("|---|---|---|---|")
    ratios = {name: rate / rates[fastest] for name, rate in rates.items()}
    for name, rate in rates.items():
        print(f"| `{name}` | {rate:,.0f} | {ratios[name]:.2f} | {other_digits.get(name, '-')} |")
    document = {"images_per_s": rates, "ratios": ratios, "other_digits": other_digits}
    print(json.dumps({**document, "rounds": rounds, **describe_machine()}))


if __name__ == "__main__":
    main()
