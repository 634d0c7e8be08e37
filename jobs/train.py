"""`mnist-ocr train` as a script.

ray job submit --working-dir . -- python jobs/train.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
