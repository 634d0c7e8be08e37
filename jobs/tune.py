"""`mnist-ocr tune` as a script.

ray job submit --working-dir . -- python jobs/tune.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
