"""Ways between two points of a latent space, and the images along them.

A way should pass through points like those that a generator was trained on.

    linear      for a uniform z on [0, 1]^d: a cube is convex, so that every point between two of
                its points lies in it. Also for means of a posterior, which follow no known density.
    spherical   for z ~ N(0, I): its length is near sqrt(d), and a straight line between two of them
                is shorter by up to a factor of sqrt(2) in the middle, where hardly any z lies. The
                way turns from one direction into the other instead, and its length changes evenly.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Way = Callable[[Tensor, Tensor, int], Tensor]


def linear(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points at equal distances on straight lines, both ends included: (R, ...) -> (R, S, ...)."""
    return torch.stack([torch.lerp(start, end, t) for t in _shares(steps)], 1)


def spherical(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points at equal angles on arcs about the origin, both ends included: (R, ...) -> (R, S, ...).

    Between directions that are equal or opposite, or of which one is none, the way is `linear`.
    """
    a, b = start.flatten(1).double(), end.flatten(1).double()
    lengths = [x.norm(dim=1, keepdim=True) for x in (a, b)]
    u, v = (x / length.clamp_min(1e-300) for x, length in zip((a, b), lengths, strict=True))
    angle = (u * v).sum(1, keepdim=True).clamp(-1, 1).acos()
    turns = (angle.sin() > 1e-6) & (lengths[0] > 0) & (lengths[1] > 0)
    sine = torch.where(turns, angle.sin(), 1)
    points = []
    for t in _shares(steps):
        direction = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / sine
        arc = torch.lerp(*lengths, t) * direction
        points.append(torch.where(turns, arc, torch.lerp(a, b, t)))
    return torch.stack(points, 1).to(start.dtype).view(len(a), steps, *start.shape[1:])


def interpolations(
    generate: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    steps: int = 10,
    way: Way = linear,
    others: Tensor | None = None,
) -> Tensor:
    """Images along ways: (R, S, C, H, W), a row for each pair of points.

    Args:
        generate: latent points (B, ...) -> images (B, C, H, W).
        start, end: latent points (R, ...).
        steps: S, both ends included.
        way: linear or spherical.
        others: further points (O, ...) that are put beside each row, and whose images are left out.
            A generator that normalises by the batch at hand makes of a row alone other images than
            in training: give as many random points as make S + O the size of a batch there.
    """
    rows = []
    for points in way(start, end, steps):
        batch = points if others is None else torch.cat([points, others])
        rows.append(generate(batch)[:steps])
    return torch.stack(rows)


def _shares(steps: int) -> list[float]:
    """0 to 1.

    Raises:
        ValueError: there is no way in so few steps.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: use 2 or more, for both ends")
    return [i / (steps - 1) for i in range(steps)]
