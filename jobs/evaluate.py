"""`mnist-ocr evaluate` as a script.

ray job submit --working-dir . -- python jobs/evaluate.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
