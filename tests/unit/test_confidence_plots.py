"""What the pictures of confidence show, read from the artists of their figures."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from mnist_ocr.training.confidence_plots import LEAST, MOST, plot_reliability, plot_risk_coverage
from mnist_ocr.training.plots import BLUE, VERMILION
from mnist_ocr.training.scores import NUM_BINS, bin_confidences


def texts_of(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def points_of(panel: Axes) -> tuple[np.ndarray, list[str]]:
    """Where the bins of a reliability diagram are drawn, and in which colour."""
    (points,) = (each for each in panel.collections if isinstance(each, PathCollection))
    return np.asarray(points.get_offsets()), [to_hex(c).upper() for c in points.get_facecolor()]


def test_bins_are_drawn_at_their_confidence_and_accuracy() -> None:
    """Fifteen points; all of them blue if confidence is true, and red if it is far too high."""
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.6, 0.9, 30_000)
    is_right = rng.random(30_000) < accuracy
    bins = bin_confidences(accuracy, is_right)
    points, colors = points_of(plot_reliability(accuracy, is_right, "models/cnn").axes[1])
    np.testing.assert_allclose(points[:, 0], bins.confidence)
    np.testing.assert_allclose(points[:, 1], bins.num_right / bins.num_images)
    assert colors.count(BLUE) >= NUM_BINS - 2  # one in twenty is red by chance
    _, colors = points_of(plot_reliability(accuracy + 0.09, is_right, "models/cnn").axes[1])
    assert colors == [VERMILION] * NUM_BINS


def test_bins_without_an_error_are_at_the_upper_edge() -> None:
    """100% has no log-odds; what is certain to the last bit is drawn at the end of the axis."""
    figure = plot_reliability(np.array([0.0, 1.0]), np.array([False, True]), "models/cnn")
    panel = figure.axes[1]
    points, _ = points_of(panel)
    np.testing.assert_allclose(points, np.transpose([(LEAST, MOST), panel.get_ylim()]))
    assert np.isfinite(panel.transData.transform(points)).all()
    assert panel.get_yticklabels()[-1].get_text() == "100%"


def test_every_image_is_in_the_histogram() -> None:
    """Those at both ends too."""
    confidences = np.concatenate([[0, 1e-9, 1, 1 - 1e-9], np.linspace(0, 1, 1000)])
    figure = plot_reliability(confidences, confidences > 0.5, "models/cnn")
    (bars,) = figure.axes[2].patches
    assert bars.get_data().values.sum() == 1004


def test_curves_lie_between_best_order_and_chance() -> None:
    """Error rates in per cent: at random, all errors last, and as the model ranks the images."""
    is_right = np.arange(1000) >= 20
    confidences = np.linspace(0.5, 1, 1000)
    confidences[5] = 0.99
    figure = plot_risk_coverage(confidences, is_right, "models/cnn")
    chance, best, model, marks = (line.get_data()[1] for line in figure.axes[1].lines)
    assert set(chance) == {2.0}
    assert np.count_nonzero(best) == 20
    assert (best <= model).all()
    assert model[-1] == pytest.approx(2)
    assert np.flatnonzero(model)[0] == 20  # the confident error
    np.testing.assert_allclose(marks, [100 * 10 / 990, 100 * 1 / 950])
    expected = {"10 errors in the most confident 99% of 1,000 images", "● 95%: 1 error", "0.11%"}
    assert expected <= texts_of(figure)


def test_coverage_grows_to_the_right_up_to_all_images() -> None:
    """An axis from none to all, stretched towards its end, with its ends named."""
    for num_images in (1, 2, 30, 100_000):
        is_right = np.ones(num_images, bool)
        panel = plot_risk_coverage(np.ones(num_images), is_right, "models/cnn").axes[1]
        x = panel.lines[2].get_data()[0]
        assert (np.diff(x) > 0).all()
        assert x[-1] == pytest.approx(np.log10(2 * num_images))  # half an image is left out
        assert panel.get_xlim() == (0, x[-1])
        names = {text.get_text(): text.get_position()[0] for text in panel.get_xticklabels()}
        assert (names["0%"], names["100%"]) == (0, x[-1])
