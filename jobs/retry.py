"""`mnist-ocr retry` as a script.

ray job submit --working-dir . -- python jobs/retry.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["retry", *sys.argv[1:]])
