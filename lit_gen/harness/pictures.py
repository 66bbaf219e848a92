"""Pictures as PNG: images side by side, and numbers as bars or as a map of colours; and clips."""

import io
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from lit_gen.harness.words import number

MOST = 12  # pictures of one model
MOST_IMAGES, MOST_NUMBERS = 100, 1000  # rows, and columns, of one picture
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
GAP, SIDE = 4, 56  # pixels between two images, and an image's least width or height
RED = (0.84, 0.15, 0.11)  # pixels that are not finite

INK, DIM, FRAME, GREY = "#1b1f24", "#57606a", "#d5dae0", "#8c959f"
UP = ((247, 249, 251), (86, 180, 233), (0, 114, 178), (8, 29, 74))  # from nought to the largest
DOWN = ((247, 249, 251), (213, 94, 0))  # from nought to as much below it
SHADES = 64  # fewer than anyone tells apart by eye; a file of them is small
TEXT, WIDTH, EDGE = 24, 776, 16  # pixels
TURNED = re.compile("traversal|interpolation")  # such names' columns are steps of something
LAYOUT = "layout"  # a PNG's text, with the numbers of a grid's `Layout`
TAKEN = "samples", "clip", "nearest"  # the names of what the harness draws by itself

LARGEST_CLIP = 350_000  # bytes
MOST_FRAMES = 1000  # of a clip
# a clip that is too large becomes poorer step by step, (size, one frame in, quality): about that
# part of the first one's bytes
POORER = (
    ((1, 1, 70), 1.0), ((1, 1, 45), 0.8), ((1, 1, 25), 0.65), ((1, 2, 25), 0.4),
    ((0.75, 2, 25), 0.25), ((0.75, 3, 15), 0.15), ((0.5, 3, 15), 0.08), ((0.5, 6, 10), 0.03),
)  # fmt: skip


class Map(NamedTuple):
    """Numbers over two quantities.

    Attributes:
        numbers: (rows, columns); the first row is at the top, where y is largest.
        x, y: names of the quantities, and where the outer columns and rows end.
        unit: of the numbers.
    """

    numbers: np.ndarray
    x: tuple[str, float, float]
    y: tuple[str, float, float]
    unit: str


def checked(named: Any) -> dict[str, np.ndarray | Map]:
    """A model's pictures as float arrays, and maps with their axes.

    Raises:
        ValueError: it is too many of them, a name no file may have, or neither images nor numbers.
    """
    if not isinstance(named, Mapping):
        raise ValueError(f"it returned a {type(named).__name__}; return pictures by their names")
    if len(named) > MOST:
        raise ValueError(f"it returned {len(named)} pictures; return at most {MOST}")
    names = [str(name) for name in named]
    for name in names:
        if not NAMES.fullmatch(name) or name.lower() in TAKEN:
            raise ValueError(
                f"{name!r} cannot name a picture; use up to 40 letters, digits, '_' and '-', and "
                f"another word than {' or '.join(map(repr, TAKEN))}"
            )
    if len({name.lower() for name in names}) < len(names):  # one file where case does not count
        raise ValueError(f"names differ in case alone: {', '.join(names)}; rename one")
    return {
        str(name): (_map if isinstance(value, Mapping) else _array)(str(name), value)
        for name, value in named.items()
    }


def _map(name: str, value: Mapping) -> Map:
    if value.keys() != {*Map._fields}:
        raise ValueError(
            f"{name} has {', '.join(map(str, value))}; a map has {', '.join(Map._fields)}"
        )
    numbers = _array(name, value["numbers"])
    if numbers.ndim != 2:
        raise ValueError(f"{name} has the shape {numbers.shape}; a map has rows and columns")
    for axis in ("x", "y"):
        given = value[axis]
        fine = isinstance(given, tuple | list) and len(given) == 3 and isinstance(given[0], str)
        if not fine or not -math.inf < float(given[1]) < float(given[2]) < math.inf:
            raise ValueError(f"{name} has {axis} = {given!r}; give (name, least, largest)")
    return Map(numbers, tuple(value["x"]), tuple(value["y"]), str(value["unit"]))


def _array(name: str, value: Any) -> np.ndarray:
    x = torch.as_tensor(value).detach().float().cpu().numpy()
    most = MOST_IMAGES if x.ndim == 5 else MOST_NUMBERS
    if x.ndim not in (2, 5) or (x.ndim == 5 and x.shape[2] not in (1, 3)) or not x.size:
        raise ValueError(
            f"{name} has the shape {x.shape}; give images (rows, columns, C, H, W) with C = 1 or "
            "3, or numbers (rows, columns)"
        )
    if max(x.shape[:2]) > most:
        raise ValueError(f"{name} has the shape {x.shape}; give at most {most} rows and columns")
    return x


def png(x: np.ndarray | Map) -> bytes:
    """Images (rows, columns, C, H, W) in [0, 1], nats (rows, columns) per layer and unit, or a
    map."""
    if isinstance(x, Map):
        return _encoded(heat(x.numbers, x).quantize(128))
    if x.ndim == 5:
        return grid(x, GAP, SIDE)
    return _encoded((bars(x[0]) if len(x) == 1 else heat(x)).quantize(128))


def _encoded(image: Image.Image, layout: str = "") -> bytes:
    buffer, about = io.BytesIO(), PngImagePlugin.PngInfo()
    if layout:
        about.add_text(LAYOUT, layout)
    image.save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


class Layout(NamedTuple):
    """How a grid is made: its rows and columns, the pixels between two images, and how many times
    larger they are than the model draws them."""

    rows: int
    columns: int
    gap: int
    times: int = 1


def layout(image: Image.Image) -> Layout | None:
    """That of a grid; None of other pictures."""
    numbers = getattr(image, "text", {}).get(LAYOUT, "").split()
    if len(numbers) not in (3, 4) or not all(map(str.isdecimal, numbers)):
        return None
    found = Layout(*map(int, numbers))
    whole = 0 < found.rows <= image.height and 0 < found.columns <= image.width and found.times
    return found if whole else None


def grid(images: np.ndarray, gap: int = 0, side: int = 1) -> bytes:
    """Images (rows, columns, C, H, W) in [0, 1] side by side; pixels that are not finite are red.

    Args:
        gap: pixels between two images.
        side: an image of less than that in width and height is enlarged, by a whole factor.
    """
    wrong = ~np.isfinite(images).all(axis=2, keepdims=True)
    if wrong.any():
        images = np.where(wrong, np.reshape(RED, (3, 1, 1)), images)
    rows, columns, c, h, w = images.shape
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 1, 3, 4, 2)
    times = math.ceil(side / max(h, w))
    pixels = pixels.repeat(times, 2).repeat(times, 3)
    h, w = h * times + gap, w * times + gap  # each with its gap
    sheet = np.full((rows, h, columns, w, c), 255, np.uint8)
    sheet[:, : h - gap, :, : w - gap] = pixels.transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * h, columns * w, c)[: rows * h - gap, : columns * w - gap]
    image = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
    return _encoded(image, f"{rows} {columns} {gap} {times}")


# --- clips


def webp(frames: Any, fps: float) -> bytes:
    """An animated picture that begins again when it is over, of at most about LARGEST_CLIP bytes.

    Args:
        frames: (T, H, W, 3) uint8.
        fps: how many of them a second has.

    Raises:
        ValueError: it is something else.
    """
    x = np.asarray(frames)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3 or not x.size:
        raise ValueError(f"it gave {x.dtype} {x.shape}; give frames (T, H, W, 3) of type uint8")
    if len(x) > MOST_FRAMES:
        raise ValueError(f"it gave {len(x):,} frames; give at most {MOST_FRAMES:,}")
    if not 1 <= fps <= 100:
        raise ValueError(f"it gave {fps} frames a second; give 1 to 100")
    images = [Image.fromarray(frame) for frame in x]
    return _animated(images, [round(1000 / fps)] * len(images), LARGEST_CLIP)


def smaller(content: bytes, most: int) -> bytes:
    """A clip that is made poorer until it has at most so many bytes, if that can be."""
    if len(content) <= most:
        return content
    with Image.open(io.BytesIO(content)) as clip:
        images, times = [], []
        for i in range(clip.n_frames):
            clip.seek(i)
            images.append(clip.convert("RGB"))
            times.append(clip.info["duration"])
    return _animated(images, times, most, most / len(content))


def still(content: bytes) -> Image.Image:
    """The middle of a clip, for those who want nothing to move."""
    with Image.open(io.BytesIO(content)) as clip:
        clip.seek(clip.n_frames // 2)
        return clip.convert("RGB")


def _animated(images: list[Image.Image], times: list[int], most: int, share: float = 1.0) -> bytes:
    """The first of POORER that is small enough, or the last.

    Args:
        times: milliseconds that each is seen.
        share: of the bytes, about, that may stay; what would be far too large is not tried.
    """
    for (scale, every, quality), left in POORER:
        if left > 1.5 * share:
            continue
        taken = images[::every]
        if scale < 1:
            size = round(scale * images[0].width), round(scale * images[0].height)
            taken = [image.resize(size, Image.Resampling.LANCZOS) for image in taken]
        lasting = [sum(times[i : i + every]) for i in range(0, len(times), every)]
        buffer = io.BytesIO()
        taken[0].save(
            buffer, "WEBP", save_all=True, append_images=taken[1:], duration=lasting, loop=0,
            quality=quality, method=4,
        )  # fmt: skip
        if buffer.tell() <= most:
            break
    return buffer.getvalue()


# --- numbers


def bars(values: np.ndarray) -> Image.Image:
    """One bar for each unit, in the order given."""
    height = 300
    values = values.astype(float)
    finite = np.isfinite(values)
    low, high = _range(values)
    marks = _ticks(low, high)
    low, high = min(low, marks[0]), max(high, marks[-1])
    left = EDGE + round(max(map(_length, ["unit", *map(number, marks)]))) + 14
    pitch = min(60, max(3, (WIDTH - left - EDGE) // len(values)))
    right = left + pitch * len(values)
    top = EDGE + 2 * TEXT
    image, pen = _sheet(max(right, left + _length(_summary(values))), top + height)

    def at(value: float) -> int:
        return round(top + height * (high - value) / (high - low))

    _write(pen, left, EDGE + TEXT // 2, _summary(values), "lm")
    for mark in marks:
        pen.line((left, at(mark), right, at(mark)), FRAME, 2)
        _write(pen, left - 10, at(mark), number(mark), "rm", DIM)
    gap = max(1, pitch // 6)
    for i, value in enumerate(values):
        x = left + i * pitch
        if not finite[i]:
            _cross(pen, x + pitch / 2, at(0) - 8, min(pitch / 2, 7))
        elif value:
            ends = sorted((at(0), at(value)))
            pen.rectangle((x + gap // 2, ends[0], x + pitch - 1 - (gap - gap // 2), ends[1]), UP[2])
    pen.line((left, at(0), right, at(0)), INK, 2)
    _units(pen, left, top + height, pitch, len(values))
    return image


def heat(values: np.ndarray, over: Map | None = None) -> Image.Image:
    """One field for each layer (row) and unit (column), in the order given; or over two
    quantities."""
    rows, columns = values.shape
    values = values.astype(float)
    names = [f"layer {rows}"] if over is None else list(map(number, _ticks(*over.y[1:])))
    left = EDGE + round(max(map(_length, names))) + 14
    pitch = min(60, max(2, (WIDTH - left - EDGE) // columns))
    tall = min(48, max(4, 640 // rows))
    right = left + pitch * columns
    top = EDGE + (3 if over is None else 4) * TEXT
    bottom = top + tall * rows
    low, high = _range(values)
    scale = max(-low, high) or 1.0
    ends = number(low), f"{number(high)} {'nats' if over is None else over.unit}"
    room = [round(_length(end)) + 12 for end in ends]
    missing = int((~np.isfinite(values)).sum())
    note = f"{missing:,} not finite" if missing else ""
    bar = 260
    needed = left + sum(room) + bar + (round(_length(note)) + 60 if note else 0)
    if over is not None:
        needed = max(needed, *(left + _length(axis[0]) for axis in (over.x, over.y)))
    image, pen = _sheet(max(right, needed), bottom + (0 if over is None else TEXT))

    y = EDGE + TEXT // 2  # the scale of colours
    _write(pen, left, y, ends[0], "lm")
    for i in range(bar):
        shade = _colour(low + (high - low) * i / (bar - 1), scale)
        pen.line((left + room[0] + i, y - 10, left + room[0] + i, y + 10), shade)
    pen.rectangle((left + room[0], y - 10, left + room[0] + bar, y + 10), outline=FRAME)
    _write(pen, left + room[0] + bar + 12, y, ends[1], "lm")
    if note:
        x = left + sum(room) + bar + 36
        _cross(pen, x, y, 7)
        _write(pen, x + 16, y, note, "lm")

    for row in range(rows):
        for column in range(columns):
            x, y = left + column * pitch, top + row * tall
            value = values[row, column]
            box = (x, y, x + pitch - 1, y + tall - 1)
            pen.rectangle(box, _colour(value, scale) if math.isfinite(value) else "white")
            if not math.isfinite(value):
                _cross(pen, x + pitch / 2, y + tall / 2, min(pitch, tall) / 2 - 2)
    pen.rectangle((left - 1, top - 1, right, bottom), outline=FRAME)
    if over is None:
        for i in _numbered(rows, tall, TEXT + 2):
            _write(pen, left - 10, top + (i - 0.5) * tall, f"layer {i}", "rm", DIM)
        _units(pen, left, bottom, pitch, columns)
    else:
        _axes(pen, over, (left, top, right, bottom))
    return image


def _axes(pen: ImageDraw.ImageDraw, over: Map, box: tuple[int, int, int, int]) -> None:
    """Numbers beside and below a field, and what they are of."""
    left, top, right, bottom = box
    name, low, high = over.y
    _write(pen, left, top - TEXT // 2 - 6, name, "lm", DIM)
    for tick in _ticks(low, high):
        if low <= tick <= high:
            y = bottom - (bottom - top) * (tick - low) / (high - low)
            pen.line((left - 6, y, left - 1, y), DIM)
            _write(pen, left - 10, y, number(tick), "rm", DIM)
    name, low, high = over.x
    for tick in _ticks(low, high):
        if low <= tick <= high:
            x = left + (right - left) * (tick - low) / (high - low)
            pen.line((x, bottom, x, bottom + 6), DIM)
            _write(pen, x, bottom + TEXT // 2 + 10, number(tick), "mm", DIM)
    _write(pen, right, bottom + 2 * TEXT, name, "rm", DIM)


def _sheet(right: float, bottom: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White, with room for a figure that ends there and the numbers of its units."""
    image = Image.new("RGB", (round(right) + EDGE + TEXT, bottom + 2 * TEXT + EDGE // 2), "white")
    return image, ImageDraw.Draw(image)


def _units(pen: ImageDraw.ImageDraw, left: int, bottom: int, pitch: int, count: int) -> None:
    """The numbers below columns."""
    y = bottom + TEXT // 2 + 10
    _write(pen, left - 10, y, "unit", "rm", DIM)
    for i in _numbered(count, pitch):
        _write(pen, left + (i - 0.5) * pitch, y, str(i), "mm", DIM)


def _range(values: np.ndarray) -> tuple[float, float]:
    """From nought, or the least if that is less, to the largest."""
    finite = values[np.isfinite(values)]
    return float(min(0.0, finite.min(initial=0.0))), float(finite.max(initial=0.0))


def _summary(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    largest = f"largest {number(float(finite.max()))} nats" if len(finite) else "no number"
    missing = len(values) - len(finite)
    return f"nats per unit: {largest}" + (f", {missing:,} not finite" if missing else "")


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose the range."""
    if high <= low:
        high = low + 1.0
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (k * step) <= 5)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _numbered(count: int, pitch: float, room: float | None = None) -> list[int]:
    """Which of 1, 2, ..., count have space for their number."""
    room = _length(str(count)) + 14 if room is None else room
    steps = (k * 10**e for e in range(4) for k in (1, 2, 5))
    step = next(step for step in steps if step * pitch >= room)
    first = [1] if step == 1 or (step - 1) * pitch >= room else []
    return first + [i for i in range(step, count + 1, step) if i > 1]


def _colour(value: float, scale: float) -> tuple[int, ...]:
    stops = UP if value >= 0 else DOWN
    share = round(min(1.0, abs(value) / scale) * (SHADES - 1)) / (SHADES - 1)
    place = share * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    pairs = zip(stops[i], stops[i + 1], strict=True)
    return tuple(round(a + (b - a) * (place - i)) for a, b in pairs)


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, reach: float) -> None:
    for sign in (-1, 1):
        pen.line((x - reach, y - sign * reach, x + reach, y + sign * reach), GREY, 2)


def _length(text: str) -> float:
    return ImageFont.load_default(TEXT).getlength(text)


def _write(
    pen: ImageDraw.ImageDraw, x: float, y: float, text: str, anchor: str, colour: str = INK
) -> None:
    pen.text((x, y), text, colour, ImageFont.load_default(TEXT), anchor)
