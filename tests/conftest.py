"""Fixtures for all tests."""

import os
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["services", "heads", "aws_account"]

# the same examples in every run: `make fuzz` is for others
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of test data; where MNIST_OCR_TEST_DATA names one, no test that needs it skips."""
    name = os.environ.get("MNIST_OCR_TEST_DATA")
    if not name:
        pytest.skip("set MNIST_OCR_TEST_DATA to the folder of test data")
    folder = Path(REPOSITORY, name)
    if not (folder / "mnist/MNIST/raw").is_dir():
        pytest.fail(f"MNIST_OCR_TEST_DATA is {name}, which holds no mnist/MNIST/raw")
    return folder
