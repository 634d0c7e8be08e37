import pytest
import torch
from torch import nn

from mnist_ocr.digits.networks import (
    GlobalBatchNorm2d,
    build_network,
    count_mmacs,
    count_parameters,
    fold_batch_norm,
)
from mnist_ocr.errors import UsageError


@pytest.mark.parametrize(
    "architecture", ["mlp-8", "mlp-128-90-50", "lenet", "cnn", "cnn-8", "conv-4x5s2-8-8r-p-10"]
)
def test_every_network_maps_images_to_ten_logits(architecture: str) -> None:
    """Any number of images gives as many rows of ten finite logits, in either memory format."""
    torch.manual_seed(0)
    network = build_network(architecture).eval()
    inputs = torch.randn(3, 1, 28, 28)
    logits = network(inputs)
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    channels_last = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(inputs), logits, atol=1e-5, rtol=0)


def test_cnn_stays_compact() -> None:
    """The CNN keeps within the size that CPU labelling was planned for."""
    assert count_parameters(build_network("cnn")) <= 170_000
    assert count_mmacs(build_network("cnn")) <= 6


def test_layers_are_as_they_are_spelt() -> None:
    """`cnn-8` spelt out is the same network; maxima have no parameters, a sum neither."""
    spelt = count_parameters(build_network("conv-8x5s2-8-16s2-16-32s2"))
    assert spelt == count_parameters(build_network("cnn-8"))
    assert spelt == count_parameters(build_network("conv-8x5s2-8r-p-16-16r-32s2"))


def test_mlp_is_784_128_10() -> None:
    """The MLP has one hidden layer of 128 units."""
    layers = [m for m in build_network("mlp-128").modules() if isinstance(m, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(784, 128), (128, 10)]


def test_sizes_are_those_of_pencil_and_paper() -> None:
    """784-128-90-50-10: weights are multiply-adds, and each unit has a bias more."""
    network = build_network("mlp-128-90-50")
    weights = 784 * 128 + 128 * 90 + 90 * 50 + 50 * 10
    assert count_parameters(network) == weights + 128 + 90 + 50 + 10
    assert count_mmacs(network) == weights / 1e6


def test_width_multiplies_the_channels() -> None:
    """`cnn` is `cnn-32`."""
    assert count_parameters(build_network("cnn")) == count_parameters(build_network("cnn-32"))
    assert count_parameters(build_network("cnn-16")) < count_parameters(build_network("cnn")) / 3


@pytest.mark.parametrize(
    "name",
    [
        "conv",
        "conv-8x4",
        "conv-p8",
        "resnet",
        "mlp",
        "mlp-0",
        "mlp-",
        "cnn-x",
        "cnn-8-8",
        "mlp-123456",
    ],
)
def test_unknown_architecture_names_the_known_ones(name: str) -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(UsageError, match=rf"'{name}'.*mlp-SIZE.*cnn-WIDTH"):
        build_network(name)


def test_batch_norm_is_torchs_own_on_one_worker() -> None:
    """Without other workers, outputs and running statistics are those of BatchNorm2d."""
    torch.manual_seed(0)
    inputs = torch.randn(8, 4, 5, 5)
    ours, torchs = GlobalBatchNorm2d(4), nn.BatchNorm2d(4)
    torch.testing.assert_close(ours(inputs), torchs(inputs))
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())


def test_folded_network_says_the_same() -> None:
    """Without its normalisations, in residual layers too; the network itself is left as it is."""
    torch.manual_seed(0)
    network = build_network("conv-4x5s2-8-8r-p-10")
    inputs = torch.randn(16, 1, 28, 28)
    network(inputs)  # statistics of its own
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, GlobalBatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, GlobalBatchNorm2d) for module in network.modules())
    torch.testing.assert_close(folded(inputs), network.eval()(inputs), atol=1e-5, rtol=1e-5)
