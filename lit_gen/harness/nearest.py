"""Does a model copy what it was trained on? Its samples beside the training images nearest to them.

The distance is the Euclidean one of pixels in [0, 1]. It finds an image again, but not one that was
moved or recoloured; and what is blurred is closer to everything. So the samples' distances mean
something beside those of test images, which nobody can have copied.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lit_gen.harness import pictures

SHOWN, NEIGHBOURS = 8, 7  # rows, and training images in each
MEASURED = 100  # samples, and as many test images
SPARE = 32  # candidates more than asked for, among which rounding may have changed the order
MIDDLE = 127.5  # of a byte; products of what is about nought round less
CHUNK = 2**20  # numbers of a set that are float at a time: 4 MB


class Distances(NamedTuple):
    """Medians of the distance to the nearest training image.

    Attributes:
        samples, test: over samples, and over test images.
        ratio: samples / test; far below 1 means copies.
    """

    samples: float
    test: float
    ratio: float


class Search(NamedTuple):
    """Some images, and what is nearest to each of them in a set.

    Attributes:
        queries: (Q, C, H, W) in [0, 1].
        distance: to the nearest of the set, in their order, (Q, k); infinite for a query with a
            pixel that is no number.
        index: which of the set those are, (Q, k).
    """

    queries: Tensor
    distance: Tensor
    index: Tensor


def search(queries: Tensor, images: Tensor, k: int = NEIGHBOURS) -> Search:
    """Looks through a whole set. float32 finds k + SPARE candidates, float64 their order.

    Args:
        queries: (Q, C, H, W) in [0, 1].
        images: uint8, (N, C, H, W), of which a part at a time is made float.
    """
    if queries.device.type == "mps":  # it has no float64
        queries, images = queries.cpu(), images.cpu()
    exact = queries.flatten(1).double() * 255
    finite = exact.isfinite().all(1)
    exact = torch.where(finite[:, None], exact, 0)
    q = (exact - MIDDLE).float()
    best, index = q.new_empty(len(q), 0), exact.new_empty(len(q), 0, dtype=torch.int64)
    size = max(1, CHUNK // q.shape[1])
    with _whole_float32():
        for at in range(0, len(images), size):
            x = images[at : at + size].flatten(1).float() - MIDDLE
            found = torch.addmm(x.square().sum(1), q, x.T, alpha=-2)  # less |q|^2
            places = torch.arange(at, at + len(x), device=q.device).expand_as(found)
            best, index = torch.cat([best, found], 1), torch.cat([index, places], 1)
            best, kept = best.topk(min(k + SPARE, best.shape[1]), largest=False)
            index = index.gather(1, kept)
    rows = [
        (images[i].flatten(1).double() - x).square().sum(1).sqrt() / 255
        for x, i in zip(exact, index, strict=True)
    ]
    distance, order = torch.stack(rows).sort(dim=1, stable=True)
    distance = distance.masked_fill(~finite[:, None], torch.inf)
    return Search(queries, distance[:, :k], index.gather(1, order)[:, :k])


def cut(found: Search, first: int, last: int | None) -> Search:
    """What was found for some of the queries."""
    return Search(*(part[first:last] for part in found))


def panel(found: Search, images: Tensor, rows: int = SHOWN) -> bytes:
    """A PNG: in each row a query, and then the images nearest to it.

    A query with pixels that are no numbers, red ones, has no neighbours: nothing is beside it.

    Args:
        found: its first queries are shown.
        images: uint8, (N, C, H, W), which were searched.
    """
    queries, distance, index = (part[:rows] for part in found)
    beside = images.to(index.device)[index].double() / 255  # (rows, k, C, H, W)
    beside[distance.isinf()] = 1.0
    drawn = torch.cat([queries.double().unsqueeze(1), beside], 1)
    return pictures.png(drawn.float().cpu().numpy())


def distances(samples: Search, test: Search, train: Tensor) -> Distances:
    """How near samples and test images are to the training images.

    Args:
        train: uint8, (N, C, H, W), which were searched for both.

    Raises:
        ValueError: they cannot be compared.
    """
    if wrong := int(samples.distance[:, 0].isinf().sum()):
        count = len(samples.queries)
        raise ValueError(f"{wrong} of {count} samples have pixels that are not finite")
    sets = {
        "samples": samples.queries,
        "training images": spread(train, 10 * MEASURED),
        "test images": test.queries,
    }
    white = [name for name, x in sets.items() if len(x.unique()) <= 2]
    if 0 < len(white) < len(sets):
        grey = [name for name in sets if name not in white]
        raise ValueError(
            f"{' and '.join(white)} have two values, {' and '.join(grey)} more: distances to "
            "training images would say nothing"
        )
    ours, theirs = (float(one.distance[:, 0].median()) for one in (samples, test))
    if theirs < 1e-4:  # of a level, 1 / 255, what float32 leaves
        raise ValueError("half of the test images are among the training images")
    return Distances(ours, theirs, ours / theirs)


def spread(images: Tensor, n: int) -> Tensor:
    """At most n of them, from all over the set: files may be sorted."""
    n = min(n, len(images))
    return images[torch.arange(n, device=images.device) * len(images) // n]


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """A run may have its matrix products coarser."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
