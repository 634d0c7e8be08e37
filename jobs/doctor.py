"""`mnist-ocr doctor` as a script.

ray job submit --working-dir . -- python jobs/doctor.py ...
"""

import sys

from mnist_ocr.cli import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])
