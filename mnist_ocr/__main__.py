"""`python -m mnist_ocr` is `mnist-ocr`."""

from mnist_ocr.cli import main

if __name__ == "__main__":
    main()
