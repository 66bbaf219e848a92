"""Pictures of a world in the plane."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 400, 300  # pixels
FINE = 2  # pixels that are drawn along each side of a pixel
LINES, COLORS = "#57606a", ("#0969da", "#cf222e")

Points = Sequence[tuple[float, float]]


def draw(
    left: float, bottom: float, width: float, lines: Iterable[Points], shapes: Iterable[Points]
) -> np.ndarray:
    """Lines behind filled shapes, (300, 400, 3) uint8.

    Args:
        left, bottom, width: of what is seen, in metres; it is 3/4 as high as wide.
        lines, shapes: points (x, y) of each, in metres; y points up.
    """
    image = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), "white")
    pen, scale = ImageDraw.Draw(image), FINE * WIDTH / width

    def pixels(points: Points) -> list[tuple[float, float]]:
        return [((x - left) * scale, FINE * HEIGHT - (y - bottom) * scale) for x, y in points]

    for line in lines:
        pen.line(pixels(line), LINES, width=FINE)
    for number, shape in enumerate(shapes):
        pen.polygon(pixels(shape), COLORS[number % len(COLORS)])
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
