"""What a trained DCGAN's generator has learned (Radford et al., arXiv:1511.06434v2, Sec. 6.3).

    forget      no window is drawn any more where the maps that draw windows are dropped (Fig. 6)
    arithmetic  "smiling woman - neutral woman + neutral man", of latent points (Fig. 7)
    turns       samples on a way from faces that look right to faces that look left (Fig. 8)

Whoever looks at samples says what is in them, by their numbers: sample i is image i of
`model.sample(n, seed)`, and in the grids that runs leave it is in row i // 10, column i % 10. The
points may come from elsewhere, too: each probe is made of functions of tensors. Nothing is trained,
and torch's random state stays as it is. Pictures are as `pictures` of a model has them: images
(rows, columns, C, H, W) in [0, 1], by name.

What the paper does not say:
    Its logistic regression is scikit-learn's here, with the defaults of that.
    Its negatives are "random samples from the same images"; here they lie outside of the boxes, and
    are as many as the positives.
    Its second-highest layer is here that of the second-highest maps, 256 of 16 x 16 in Fig. 1: it
    dropped 200, and the highest are but 128.
    How far a turn goes, and what normalises a picture's few images; here they lie in a batch of
    training's size, beside random ones.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_gen.metrics.errors import MetricError
from lit_gen.nn.interpolate import linear

if TYPE_CHECKING:
    from lit_gen.papers.dcgan import AlternatingGAN, ConditionalDCGAN

BATCH = 128  # images that are normalised together
PART = 32  # of them those that are asked for; the others are random
OTHERS = 4  # seed of the latter
DIGITS = 10


class Box(NamedTuple):
    """Around an object in a sample: rows [top, bottom) and columns [left, right) of its pixels."""

    sample: int
    top: int
    left: int
    bottom: int
    right: int


# --- latent points and their images


def points(model: "AlternatingGAN", numbers: Sequence[int], seed: int = 0) -> tuple[Tensor, ...]:
    """z of samples (n, D), and their labels (n,) if they have any.

    Raises:
        ValueError: no numbers are given, or one is negative.
    """
    if not numbers or min(numbers) < 0:
        raise ValueError(f"samples {list(numbers)}: give numbers of samples, the first is 0.")
    batches = zip(*model.latents(max(numbers) + 1, seed), strict=True)
    return tuple(torch.cat(part)[list(numbers)] for part in batches)


@torch.no_grad()
def images(model: "AlternatingGAN", z: Tensor, *condition: Tensor) -> Tensor:
    """What the generator makes of z (n, D): (n, C, H, W) in [0, 1].

    Args:
        condition: labels (n,), for a generator that is told any.

    Raises:
        ValueError: there are labels too many or too few.
    """
    others = next(model.latents(BATCH, OTHERS))
    if len(others) != 1 + len(condition):
        needs = "needs a label for each point" if len(others) > 1 else "knows no labels"
        raise ValueError(f"{type(model).__name__} {needs}, and {len(condition)} were given.")
    made = []
    for parts in zip(*(x.split(PART) for x in (z, *condition)), strict=True):
        n = len(parts[0])
        beside = [torch.cat([part, rest[n:]]) for part, rest in zip(parts, others, strict=True)]
        made.append(model.images(*beside)[:n])
    return torch.cat(made)


# --- arithmetic and turns


def combined(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a - b + c of their means over examples, (n, ...) each: a concept is the mean of some, as
    single ones were not stable."""
    return a.mean(0) - b.mean(0) + c.mean(0)


def surrounded(y: Tensor, count: int = 8, reach: float = 0.25, seed: int = 0) -> Tensor:
    """y (D,) in the midst of as many points y + U[-reach, reach]^D: (count + 1, D)."""
    generator = torch.Generator(y.device).manual_seed(seed)
    noise = torch.rand(count, *y.shape, generator=generator, device=y.device, dtype=y.dtype)
    around = y + reach * (2 * noise - 1)
    return torch.cat([around[: count // 2], y[None], around[count // 2 :]])


def along(z: Tensor, towards: Tensor, steps: int = 9, reach: float = 1.0) -> Tensor:
    """From z - reach * towards (D,) to z + reach * towards, for each z (n, D): (n, steps, D)."""
    return linear(z - reach * towards, z + reach * towards, steps)


def arithmetic(
    model: "AlternatingGAN",
    a: Sequence[int],
    b: Sequence[int],
    c: Sequence[int],
    *label: int,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Images of a - b + c of latent points, and of images.

    Args:
        a, b, c: samples of each concept; three in the paper.
        label: that the result is told, for a generator that is told any.
        seed: of the samples.

    Returns:
        `arithmetic` (3, 3, ...), amid its neighbours that of a - b + c, and as a control
        `arithmetic_pixels` (1, 1, ...), the same of the samples' images.
    """
    concepts = [points(model, numbers, seed) for numbers in (a, b, c)]
    y = surrounded(combined(*(z for z, *_ in concepts)))
    told = (torch.full((len(y),), one, device=y.device) for one in label)
    pixels = combined(*(images(model, *concept) for concept in concepts))
    return {
        "arithmetic": images(model, y, *told).unflatten(0, (3, 3)),
        "arithmetic_pixels": pixels.clamp(0, 1)[None, None],
    }


def turns(
    model: "AlternatingGAN",
    left: Sequence[int],
    right: Sequence[int],
    rows: int = 5,
    steps: int = 9,
    reach: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Other samples, in the middle of each row, on their way along left - right.

    Args:
        left, right: samples of both poses; four of each in the paper.
        rows, steps: samples, and images of each; an odd number shows the sample itself.
        reach: how many times left - right a row goes to both sides.
        seed: of left and right; the next one is that of the others.

    Returns:
        `interpolations_turn` (rows, steps, ...).
    """
    turn = points(model, left, seed)[0].mean(0) - points(model, right, seed)[0].mean(0)
    z, *told = points(model, range(rows), seed + 1)
    way = along(z, turn, steps, reach).flatten(0, 1)
    made = images(model, way, *(y.repeat_interleave(steps) for y in told))
    return {"interpolations_turn": made.unflatten(0, (rows, steps))}


# --- maps that draw an object


def map_layers(generator: nn.Module) -> list[nn.Module]:
    """Those whose outputs are maps, (B, C, h, w) after the rectifier, from the lowest (4 x 4) to
    the highest; images are none."""
    layers = list(generator.modules())
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Unflatten))
    return [layers[first], *(layer for layer in layers[first:] if isinstance(layer, nn.ReLU))]


@contextlib.contextmanager
def _hooked(layer: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def without(generator: nn.Module, dropped: Tensor, layer: int = -2) -> Iterator[None]:
    """Within, these maps of a layer are 0 at all positions.

    Args:
        dropped: which of them, (C,) bool.
        layer: its place in `map_layers`.

    Raises:
        ValueError: the layer has another number of maps.
    """

    def drop(layer: nn.Module, given: Any, maps: Tensor) -> Tensor:
        if maps.shape[1:2] != dropped.shape:
            raise ValueError(
                f"the layer has {maps.shape[1]} maps, and {tuple(dropped.shape)} of them are "
                "chosen from. Choose that layer which they were found in."
            )
        return maps.masked_fill(dropped[:, None, None], 0)

    with _hooked(map_layers(generator)[layer], drop):
        yield


@torch.no_grad()
def activations(
    model: "AlternatingGAN", n: int, layer: int = -2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Maps of a layer that the first samples were made from, (n, C, h, w), and these."""
    maps: list[Tensor] = []
    with _hooked(map_layers(model.generator)[layer], lambda layer, given, out: maps.append(out)):
        samples = model.sample(n, seed)
    return torch.cat(maps)[:n], samples


def inside(
    boxes: Iterable[Sequence[int]], n: int, pixels: Sequence[int], positions: Sequence[int]
) -> Tensor:
    """Which positions of maps have their centres in a box, (n, h, w) bool.

    Args:
        boxes: see `Box`.
        n: samples.
        pixels: (H, W) of these.
        positions: (h, w) of the maps.

    Raises:
        ValueError: a box holds none, or lies elsewhere.
    """
    found = torch.zeros(n, *positions, dtype=torch.bool)
    y, x = ((torch.arange(k) + 0.5) * (size / k) for k, size in zip(positions, pixels, strict=True))
    for box in boxes:
        i, top, left, bottom, right = box
        if not (0 <= i < n and 0 <= top < bottom <= pixels[0] and 0 <= left < right <= pixels[1]):
            raise ValueError(
                f"{tuple(box)} is no box (sample, top, left, bottom, right) in one of {n} samples "
                f"of {pixels[0]} x {pixels[1]} pixels. Correct it."
            )
        held = ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
        if not held.any():
            raise ValueError(
                f"{tuple(box)} holds the centre of none of the {positions[0]} x {positions[1]} "
                "positions. Draw a larger box, or take a higher layer."
            )
        found[i] |= held
    return found


def object_weights(maps: Tensor, where: Tensor, seed: int = 0) -> Tensor:
    """Of each map the weight by which a logistic regression tells an object's positions, (C,).

    Args:
        maps: (n, C, h, w).
        where: the object is, (n, h, w) bool. Images without it say nothing.
        seed: of the positions without it, of which as many are drawn.

    Raises:
        MetricError: scikit-learn is not installed.
        ValueError: it is nowhere, or everywhere.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MetricError(
            "logistic regression needs scikit-learn: pip install 'lit-gen[features]' installs it"
        ) from error
    with_it = where.flatten(1).any(1)
    values = maps.detach().cpu().movedim(1, -1)[with_it]  # (n', h, w, C)
    is_it = where[with_it]
    positives, rest = values[is_it], values[~is_it]
    if not len(positives) or not len(rest):
        raise ValueError(
            f"{len(positives)} positions are inside of boxes and {len(rest)} of the same images "
            "outside; a regression needs both. Draw other boxes."
        )
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    negatives = rest[order[: len(positives)]]
    x = torch.cat([positives, negatives]).double().numpy()
    y = [1] * len(positives) + [0] * len(negatives)
    return torch.from_numpy(LogisticRegression(max_iter=1000).fit(x, y).coef_[0])


def forget(
    model: "AlternatingGAN", boxes: Sequence[Sequence[int]], layer: int = -2, seed: int = 0
) -> Tensor:
    """Which maps draw what is in these boxes: those of positive weight, (C,) bool. Dropped by
    `without`, or shown by `forgotten`; their number is the paper's 200.

    Args:
        boxes: see `Box`; 52 in 150 samples in the paper.
        layer: of these maps, its place in `map_layers`.
        seed: of the samples.

    Raises:
        MetricError: scikit-learn is not installed.
        ValueError: there is no box, or one is not in a sample.
    """
    if not boxes:
        raise ValueError("no boxes are given. Draw some around the object that is to be forgotten.")
    maps, samples = activations(model, 1 + max(0, *(box[0] for box in boxes)), layer, seed)
    where = inside(boxes, len(samples), samples.shape[-2:], maps.shape[-2:])
    return (object_weights(maps, where) > 0).to(maps.device)


def forgotten(
    model: "AlternatingGAN", dropped: Tensor, layer: int = -2, n: int = 10, seed: int = 1
) -> dict[str, Tensor]:
    """Other samples (first row), and the same without these maps: `forgetting` (2, n, ...).

    Args:
        dropped, layer: see `without`.
        n, seed: of the samples.
    """
    chosen = points(model, range(n), seed)
    before = images(model, *chosen)
    with without(model.generator, dropped, layer):
        return {"forgetting": torch.stack([before, images(model, *chosen)])}


# --- digits, where numbers stand in for somebody who looks


def ink(x: Tensor) -> Tensor:
    """Mean of an image's pixels, (..., C, H, W) -> (...)."""
    return x.mean((-3, -2, -1))


def lean(x: Tensor) -> Tensor:
    """Pixels to the right for each one up, along a digit's stroke: (..., 1, H, W) -> (...)."""
    weight = x.squeeze(-3) / x.sum((-3, -2, -1))[..., None, None].clamp_min(1e-6)
    up, right = (
        (torch.arange(size, device=x.device, dtype=x.dtype) * sign).view(shape)
        for size, sign, shape in ((x.shape[-2], -1, (-1, 1)), (x.shape[-1], 1, (1, -1)))
    )
    up = up - (weight * up).sum((-2, -1), keepdim=True)
    right = right - (weight * right).sum((-2, -1), keepdim=True)
    together, alone = ((weight * up * other).sum((-2, -1)) for other in (right, up))
    return together / alone.clamp_min(1e-6)


@torch.no_grad()
def digit_styles(model: "ConditionalDCGAN", seed: int = 3) -> dict[str, Tensor]:
    """Arithmetic and a turn of handwriting, in pictures of all ten digits.

    A label says which digit it is, so z holds its style. Of 128 z, those of heavy or light strokes
    that lean to the right or to the left are found by `ink` and `lean`, means over all digits.

    Args:
        seed: of z.

    Returns:
        `arithmetic` (5, 10, ...), rows: heavy and right, light and right, light and left, the first
        - the second + the third of these z (three of each), and the same of images, as a control.
        `interpolations_lean` (10, 10, ...), a z each row, along four that lean most to the right -
        four that lean most to the left.
    """
    z, *_ = next(model.latents(BATCH, seed))
    index = torch.arange(BATCH, device=z.device)
    x = z.new_empty(BATCH, DIGITS, *model.shape)
    for first in range(DIGITS):
        told = (index + first) % DIGITS  # all of them in each batch, as in training
        x[index, told] = model.images(z, told)
    heavy, right = (measure(x).mean(1).argsort().argsort() for measure in (ink, lean))
    corners = heavy + right, right - heavy, -heavy - right
    concepts = [score.argsort()[-3:] for score in corners]
    labels = torch.arange(DIGITS, device=z.device)

    means = [z[one].mean(0) for one in concepts]
    rows = torch.stack([*means, combined(*(z[one] for one in concepts))])
    styles = images(model, rows.repeat_interleave(DIGITS, 0), labels.repeat(len(rows)))
    pixels = combined(*(x[one] for one in concepts)).clamp(0, 1)
    order = right.argsort()
    turn = z[order[-4:]].mean(0) - z[order[:4]].mean(0)
    way = along(z[:DIGITS], turn, DIGITS).flatten(0, 1)
    turned = images(model, way, labels.repeat_interleave(DIGITS))
    return {
        "arithmetic": torch.cat([styles, pixels]).unflatten(0, (-1, DIGITS)),
        "interpolations_lean": turned.unflatten(0, (DIGITS, DIGITS)),
    }
