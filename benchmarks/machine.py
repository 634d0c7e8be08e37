"""What every benchmark states beside its figures: hardware, versions, commit."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Processor, GPU if there is one, versions of what matters, and the commit."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpu": _name_cpu(),
        "num_cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "torch", "onnxruntime", "pyarrow")},
        "commit": commit.stdout.strip(),
    }


def read_versions(packages: Iterable[str], python: str) -> dict[str, str]:
    """What another interpreter has installed."""
    code = "import json, sys, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in "
    command = [python, "-c", f"{code}sys.argv[1:]}}))", *packages]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _name_cpu() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
