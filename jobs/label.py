"""`mnist-ocr label` as a script.

ray job submit --working-dir . -- python jobs/label.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["label", *sys.argv[1:]])
