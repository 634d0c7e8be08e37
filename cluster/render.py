"""Fill in every `${NAME}` of a file from the environment: `python3 cluster/render.py FILE`.

Only the standard library, and any Python 3: it runs before anything is installed.
"""

import os
import re
import sys
from pathlib import Path


def main() -> None:
    """Print the file, or say which names have no value."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{([A-Z_]+)\}", text))
    missing = sorted(name for name in names if not os.environ.get(name))
    if missing:
        sys.exit(f"error: {sys.argv[1]} needs {', '.join(missing)} in the environment.")
    print(re.sub(r"\$\{([A-Z_]+)\}", lambda found: os.environ[found[1]], text), end="")


if __name__ == "__main__":
    main()
