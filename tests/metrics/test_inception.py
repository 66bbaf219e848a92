"""The Inception network: torch-fidelity's numbers, whatever we change for speed."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from inception_like import images, random_network

from lit_gen.metrics import distances, inception, weights
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception_score import inception_score

fidelity = pytest.importorskip("torch_fidelity")
warnings.filterwarnings("ignore", "To copy construct from a tensor")  # torch-fidelity's resizing


class Set(torch.utils.data.Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.images[i]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, as a file that torch-fidelity loads."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(random_network().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor() -> inception.Extractor:
    return inception.Extractor(random_network(), "random")


def test_all_metrics_agree_with_torch_fidelity_on_the_same_images(
    file: Path, extractor: inception.Extractor
) -> None:
    fake, real = images(12, side=32), images(14, seed=1, side=32)
    theirs = fidelity.calculate_metrics(
        input1=Set(fake), input2=Set(real), feature_extractor_weights_path=str(file),
        feature_extractor="inception-v3-compat", isc=True, isc_splits=2, samples_shuffle=False,
        prc=True, cuda=False, save_cpu_ram=True, verbose=False, batch_size=12,
    )  # fmt: skip

    ours, others = (extractor(x).numpy() for x in (fake, real))
    found = inception_score(extractor.logits(ours), splits=2)
    assert found.mean > 1.001  # random weights tell images apart, if not by much
    assert found.mean == pytest.approx(theirs["inception_score_mean"], abs=1e-6 * found.mean)
    assert found.std == pytest.approx(theirs["inception_score_std"], abs=1e-6 * found.mean)
    # Its kernel is float32, in which random weights' large features cancel: it gets float64 here.
    in_full = (torch.from_numpy(x).double() for x in (ours, others))
    kid = fidelity.metric_kid.kid_features_to_metric(
        *in_full, kid_subset_size=12, kid_subsets=3, verbose=False
    )["kernel_inception_distance_mean"]
    assert distances.kid(ours, others, subsets=3, size=12)[0] == pytest.approx(kid, rel=1e-6)
    both = distances.precision_recall(ours, others)
    assert both == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_features_and_logits_are_theirs(file: Path, extractor: inception.Extractor) -> None:
    shown = images(5, side=40)  # a size that is neither CIFAR-10's nor the network's
    names = ["2048", "logits_unbiased", "logits"]
    theirs = fidelity.utils.create_feature_extractor(
        "inception-v3-compat", names, cuda=False, feature_extractor_weights_path=str(file)
    )
    with torch.no_grad():
        pool, unbiased, logits = theirs(shown)

    ours = extractor(shown)

    scale = float(pool.abs().max())
    assert float((ours - pool).abs().max()) < 1e-5 * scale
    for bias, expected in ((False, unbiased), (True, logits)):
        found = extractor.logits(ours.numpy(), bias)
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_fid_of_its_features_is_torch_fidelitys(extractor: inception.Extractor) -> None:
    from torch_fidelity import metric_fid

    few = [extractor(images(12, seed, 32))[:, :6].contiguous() for seed in (2, 3)]
    theirs = metric_fid.fid_statistics_to_metric(
        *map(metric_fid.fid_features_to_statistics, few), verbose=False
    )["frechet_inception_distance"]

    ours = distances.fid(*(distances.statistics(features.numpy()) for features in few))

    assert theirs > 1e-2
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_floats_are_rounded_to_the_nearest_byte() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)

    assert torch.equal(inception.pixels(levels / 255), levels)
    assert torch.equal(inception.pixels((levels + 0.4).div(255).clamp(max=1)), levels)
    assert torch.equal(inception.pixels(levels.double() / 255), levels)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.rand(2, 3, 8, 8) * 2 - 1, r"lie in \[-.*\(x \+ 1\) / 2"),
        (torch.rand(2, 3, 8, 8) * 255, r"not in \[0, 1\]"),
        (torch.full((2, 3, 8, 8), torch.nan), "not finite"),
        (torch.rand(2, 3, 8, 8).index_fill(3, torch.tensor([1]), torch.nan), "not finite"),
        (torch.rand(2, 1, 8, 8), r"\(2, 1, 8, 8\), not \(B, 3, H, W\)"),
        (torch.rand(3, 8, 8), "not .B, 3, H, W"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "torch.int64; give uint8"),
    ],
)
def test_images_that_are_none_are_refused(wrong: torch.Tensor, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        inception.pixels(wrong)


def test_the_training_around_it_changes_nothing(extractor: inception.Extractor) -> None:
    shown = images(2, side=32)
    alone = extractor(shown)

    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            beside = extractor.train()(shown)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")

    assert torch.equal(beside, alone)


def test_a_script_of_another_network_is_refused() -> None:
    with pytest.raises(MetricError, match="1 convolutions of other shapes than the 94"):
        inception.transplant(random_network(), {"a.weight": torch.zeros(1, 3, 3, 3)})


@pytest.fixture
def pool() -> weights.Weights:
    found = weights._pool([])
    if found is None:
        pytest.skip(f"without {weights.PACKAGE} there are no weights to look at")
    return found


def test_the_pools_weights_give_the_features_of_their_own_network(pool: weights.Weights) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as resized,
    )

    script = torch.jit.load(pool.path, map_location="cpu").eval()
    network = inception.network()
    inception.transplant(network, script.state_dict())
    extractor = inception.Extractor(network, "pool", "no last layer")
    shown = images(3, side=32)
    with torch.inference_mode():
        theirs = script((resized(shown.float(), (299, 299), align_corners=False) - 128) / 128)

    ours = extractor(shown)

    assert float(theirs.max()) > 1
    assert float((ours - theirs).abs().max()) < 2e-5
    assert torch.isnan(extractor.network.fc.weight).all()
    with pytest.raises(MetricError, match="not measurable here: no last layer"):
        extractor.logits(ours.numpy())
