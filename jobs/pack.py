"""`mnist-ocr pack` as a script.

ray job submit --working-dir . -- python jobs/pack.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["pack", *sys.argv[1:]])
