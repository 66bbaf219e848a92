"""Features of the Inception network of 2015-12-05, by torch-fidelity's `inception-v3-compat`.

torch-fidelity's module is the network; its weights come from the official file or, up to the pool,
from another package (weights.py). What we change leaves the numbers and halves the time: batch
normalisation is folded into the convolutions (in float64), tensors are channels-last, and the
images of a call go through in small parts that stay in the caches. Against a float64 network,
features of real images are off by 6e-6 (of up to 5.4) with and without it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lit_gen.metrics import weights
from lit_gen.metrics.errors import MetricError

FEATURES, LOGITS = 2048, 1008
PARTS = {"cpu": 8, "cuda": 256}  # images that go through at a time


class Extractor(nn.Module):
    """Images -> pool features, and features -> logits.

    Args:
        network: torch-fidelity's, in evaluation mode; it is changed in place.
        name: of its weights, for ids of metrics.
        lacking: why it has no logits; "" if it has.
    """

    num_features = FEATURES

    def __init__(self, network: nn.Module, name: str, lacking: str = "") -> None:
        super().__init__()
        self.network = _folded(network).to(memory_format=torch.channels_last)
        self.id = f"{name}; TF1 bilinear 299"
        self.lacking = lacking

    def train(self, mode: bool = True) -> "Extractor":
        return super().train(False)  # whoever holds it, it only looks at images

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048), float32, of images (B, 3, H, W): uint8, or floats in [0, 1].

        Raises:
            MetricError: as for `pixels`.
        """
        size = PARTS.get(images.device.type, 32)
        with _float32(images.device.type):
            parts = [self.network(part)[0] for part in pixels(images).split(size)]
        return torch.cat(parts)

    def logits(self, features: np.ndarray, bias: bool = False) -> np.ndarray:
        """(n, 1008) of features (n, 2048), in float64.

        Args:
            bias: whether the last layer's is added; the official score is without.

        Raises:
            MetricError: the weights end before.
        """
        if self.lacking:
            raise MetricError(f"not measurable here: {self.lacking}")
        layer = self.network.fc
        matrix, offset = (p.detach().cpu().double().numpy() for p in (layer.weight, layer.bias))
        found = np.asarray(features, float) @ matrix.T
        return found + offset if bias else found


def pixels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as uint8: bytes as they are, floats in [0, 1] rounded to the nearest.

    Of two as near, the even one. torchmetrics cuts the fraction off instead, which darkens images
    by half a level.

    Raises:
        MetricError: another shape, type or range; or a pixel is nan.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise MetricError(
            f"images are {tuple(images.shape)}, not (B, 3, H, W). Repeat a single channel three "
            "times, and put channels before rows."
        )
    if images.dtype == torch.uint8 or not len(images):
        return images.to(torch.uint8)
    if not images.is_floating_point():
        raise MetricError(f"images are {images.dtype}; give uint8, or floats in [0, 1]")
    low, high = (float(v) for v in images.detach().aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # written so that nan is refused
        if not np.isfinite([low, high]).all():
            raise MetricError("images have pixels that are not finite: the generator has diverged")
        raise MetricError(
            f"images lie in [{low:.4g}, {high:.4g}], not in [0, 1]. Map those of a tanh by "
            "(x + 1) / 2; give bytes as uint8."
        )
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)


@contextmanager
def own_draws() -> Iterator[None]:
    """New networks draw weights; nothing of that shall be seen in a training around it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


@own_draws()
def inception(logits: bool = True, download: bool = True) -> Extractor:
    """The network with the best weights that can be had.

    Args:
        logits: whether the last layer is needed. Without it at hand you get an extractor that says
            why in `lacking`.
        download: see `weights.provide`.

    Raises:
        MetricError: torch-fidelity is not installed, or there are no weights.
    """
    blank = network()
    found = weights.provide(logits, download)
    if found.logits:
        blank.load_state_dict(torch.load(found.path, map_location="cpu", weights_only=True))
        return Extractor(blank, f"inception-2015-12-05 {found.sha256[:8]}")
    transplant(blank, torch.jit.load(found.path, map_location="cpu").state_dict())
    return Extractor(blank, f"inception-2015-12-05 pool {found.sha256[:8]}", _lacking(found))


def _lacking(found: weights.Weights) -> str:
    reason = f" ({found.why})" if found.why else ""
    return (
        f"the weights at hand, {found.path.name}, end before the 1,008 logits; those of "
        f"{weights.NAMES[0]} could not be had{reason}. Put that file into "
        f"{weights.cache() / 'weights'} and measure again"
    )


def network() -> nn.Module:
    """torch-fidelity's module for pool features, with random weights from torch's generator.

    Raises:
        MetricError: it is not installed, or cannot be imported.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except Exception as error:  # a package beside it that does not fit raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise MetricError(
            f"torch-fidelity, which has the Inception network, cannot be imported ({reason}). "
            "Install it with `pip install 'lit-gen[samples]'`."
        ) from error

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: dict, strict: bool = True, assign: bool = False):
            return super().load_state_dict(state_dict, strict and bool(state_dict), assign)

    nothing = io.BytesIO()  # its constructor insists on loading a file: the weights come later
    torch.save({}, nothing)
    nothing.seek(0)
    return Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)


def transplant(network: nn.Module, script: dict[str, Tensor]) -> None:
    """Gives the network the weights of the pool's TorchScript, and nan as its last layer.

    Both were made from TensorFlow's graph and have its 94 convolutions in the same order, the
    script with the names of the graph. Its normalisation has no scale: it is 1.

    Raises:
        MetricError: a convolution is missing, or of another shape.
    """
    stems = [name.removesuffix(".weight") for name in script if name.endswith(".weight")]
    blocks = _blocks(network)
    shapes = [tuple(block.conv.weight.shape) for block in blocks]
    if shapes != (theirs := [tuple(script[f"{stem}.weight"].shape) for stem in stems]):
        raise MetricError(
            f"{weights.POOL_NAME} has {len(theirs)} convolutions of other shapes than the "
            f"{len(shapes)} of torch-fidelity's network. Take torch-fidelity 0.4."
        )
    with torch.no_grad():
        for block, stem in zip(blocks, stems, strict=True):
            block.conv.weight.copy_(script[f"{stem}.weight"])
            block.bn.weight.fill_(1)
            block.bn.bias.copy_(script[f"{stem}.beta"])
            block.bn.running_mean.copy_(script[f"{stem}.mean"])
            block.bn.running_var.copy_(script[f"{stem}.var"])
        for parameter in network.fc.parameters():
            parameter.fill_(torch.nan)  # so that nothing takes its output for logits


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Convolutions with their normalisation, in the order of the network."""
    return [m for m in network.modules() if hasattr(m, "conv") and hasattr(m, "bn")]


def _folded(network: nn.Module) -> nn.Module:
    """Convolution, then scale and shift, as one convolution with a bias."""
    for block in _blocks(network):
        if isinstance(block.bn, nn.Identity):
            continue
        conv, bn = block.conv, block.bn
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()  # (channels,)
        weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
        shift = bn.bias.double() - bn.running_mean.double() * scale
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        block.bn = nn.Identity()
    return network


@contextmanager
def _float32(device: str) -> Iterator[None]:
    """Real float32, whatever precision the training around it has chosen: TF32 moves features by
    1e-3."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
