"""Nothing that leaves the server tells real images from generated ones, except the pixels."""

import io
import json
import re
import struct

import numpy as np
from PIL import Image
from scipy import stats

from lit_gen.harness.human import trial


def walk(test, server, rater, name: str = "ada") -> list[tuple[bool, str, dict, bytes, dict]]:
    """Of each image: whether it is generated, its name, headers and bytes, and the vote's reply."""
    one, found = rater(server, name), []
    for position in range(test.images):
        called = one.turn["image"]
        _, headers, content = one.image()
        kind = bool(test.generated[test.order(name)[position]])
        found.append((kind, called, headers, content, one.vote("real")[1]))
    return found


def test_images_differ_in_nothing_but_their_pixels(begun, serve, rater) -> None:
    test = begun(images=20)
    test.pixels[test.generated] = 128  # what compresses to nothing

    found = walk(test, serve(test), rater)

    assert len({len(content) for *_, content, _ in found}) == 1
    plain = [{k: v for k, v in headers.items() if k != "Date"} for _, _, headers, *_ in found]
    assert all(headers == plain[0] for headers in plain)
    assert not {"ETag", "Last-Modified", "Content-Disposition"} & plain[0].keys()
    assert len({tuple(parts(content)) for *_, content, _ in found}) == 1
    assert len({content[:33] for *_, content, _ in found}) == 1  # size, depth, colours
    assert {name for name, _ in parts(found[0][3])} == {b"IHDR", b"IDAT", b"IEND"}


def parts(png: bytes) -> list[tuple[bytes, int]]:
    """Name and length of each chunk."""
    found, at = [], 8
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        found.append((name, length))
        at += 12 + length
    return found


def test_the_pixels_are_the_stored_ones(begun, serve, rater) -> None:
    for channels in (1, 3):
        test = begun(name=str(channels), channels=channels)
        for position, (*_, content, _) in enumerate(walk(test, serve(test), rater)):
            index = test.order("ada")[position]
            shown = np.asarray(Image.open(io.BytesIO(content)))
            assert (shown == test.pixels[index]).all()


def test_replies_are_as_long_and_alike_for_both_kinds(begun, serve, rater) -> None:
    test = begun(images=20)

    found = walk(test, serve(test), rater)

    for kind, called, _, _, reply in found:
        assert re.fullmatch("[0-9a-f]{32}", called)
        assert reply.keys() == {"done", "total", "image"}, kind
    lengths = [len(json.dumps(reply)) for *_, reply in found[9:-1]]  # of two digits
    assert len(set(lengths)) == 1


def test_position_and_name_carry_no_information(begun) -> None:
    """Over many secrets, each position is as often real, and no letter of a name tells the kind."""
    test = begun(images=10)
    kinds, names = [], []
    for seed in range(400):
        test.secret = seed.to_bytes(32)
        kinds.append(test.generated[test.order("ada")])
        names += [[int(c, 16) for c in test.name("ada", i)] for i in range(10)]
    kinds, names = np.array(kinds), np.array(names)

    assert (kinds.sum(axis=1) == 5).all()
    at_position = kinds.sum(axis=0)  # of 400, each half: 5 of 10 chosen
    assert stats.chisquare(at_position).pvalue > 1e-4
    follows = (kinds[:, 1:] == kinds[:, :-1]).mean()  # 4 of the 9 others are of the same kind
    assert abs(follows - 4 / 9) < 0.03
    flat = kinds.ravel()
    for letter in range(32):
        table = np.histogram2d(names[:, letter], flat, bins=(16, 2))[0]
        assert stats.chi2_contingency(table).pvalue > 1e-5
    assert len({tuple(row) for row in names.tolist()}) == 4000


def test_an_order_of_real_ones_first_would_be_noticed(begun) -> None:
    """That the test above can fail."""
    test = begun(images=10)
    sorted_kinds = np.array([np.sort(test.generated[test.order(f"r{i}")]) for i in range(400)])

    assert stats.chisquare(sorted_kinds.sum(axis=0) + 1).pvalue < 1e-4


def test_every_image_of_the_pool_is_shown_as_often(begun) -> None:
    test = begun(images=10)
    counts = np.zeros(len(test.pixels))
    for i in range(600):
        np.add.at(counts, test.order(f"rater_{i}"), 1)

    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_page_holds_no_key_and_asks_nobody_else(begun, serve, rater) -> None:
    test = begun()
    ada = rater(serve(test))
    whole = b""
    for path in ("/", "/page.css", "/page.js"):
        status, headers, content = ada.ask("GET", path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        whole += content

    text = whole.decode()
    assert not re.findall(r"https?://|url\(|<script>|style=|\son\w+=", text)
    assert test.secret.hex() not in text
    other = trial.load(test.folder)
    assert rater(serve(other)).ask("GET", "/")[2] == ada.ask("GET", "/")[2]


def test_the_key_is_its_owners_alone(begun, serve, rater) -> None:
    test = begun()
    rater(serve(test)).see_and_vote("real")

    with trial.held(test.folder):
        modes = {p.name: p.stat().st_mode & 0o777 for p in test.folder.rglob("*")}

    assert test.folder.stat().st_mode & 0o777 == 0o700
    assert modes["votes"] == 0o700
    assert {modes[name] for name in ("secret", "images.npz", "ada.jsonl", "lock")} == {0o600}
