"""Handwritten digits, read in bulk: train with Ray Train, label with Ray Data, trust the Parquet.

    from mnist_ocr import DigitClassifier

    classifier = DigitClassifier.load("models/cnn")
    predictions = classifier.predict(["scans/1.png", "scans/2.jpg"])
    predictions.digit, predictions.confidence

    pandas.read_parquet(mnist_ocr.labels_uri("labels/"))     # what `mnist-ocr label` wrote last

Importing this package loads neither torch nor Ray.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_ocr.digits.classifier import DigitClassifier, Predictions
    from mnist_ocr.labelling.generations import labels_uri

__version__ = "0.1.0"
__all__ = ["DigitClassifier", "Predictions", "__version__", "labels_uri"]


def __getattr__(name: str) -> object:
    """Load what is used on first use, so that `import mnist_ocr` costs nothing."""
    if name in {"DigitClassifier", "Predictions"}:
        from mnist_ocr.digits import classifier

        return getattr(classifier, name)
    if name == "labels_uri":
        from mnist_ocr.labelling.generations import labels_uri

        return labels_uri
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
