"""The page in a real browser: keys, mouse, a closed tab, the way back, what a full disk says."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lit_gen.harness.human import trial

client = pytest.importorskip("websockets.sync.client")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH")
WITHIN = 30.0  # seconds, that anything may take
CODES = {"f": "KeyF", "j": "KeyJ", "ArrowLeft": "ArrowLeft", "ArrowRight": "ArrowRight"}


class Tab:
    """A page, driven by Chromium's own protocol as a hand and an eye would."""

    def __init__(self, browser: str, address: str) -> None:
        request = urllib.request.Request(f"{browser}/json/new?about:blank", method="PUT")
        self.browser, self.about = browser, json.loads(urllib.request.urlopen(request).read())
        quick = {"max_size": 2**25, "ping_interval": None, "close_timeout": 1}
        self.line = client.connect(self.about["webSocketDebuggerUrl"], **quick)
        self.count, self.events = 0, []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.do(f"{domain}.enable")
        self.do("Emulation.setFocusEmulationEnabled", enabled=True)  # in the background, too
        self.do("Page.navigate", url=address)
        self.until("location.protocol === 'http:' && document.readyState === 'complete'")

    def do(self, method: str, **parameters: Any) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.line.send(json.dumps(message))
        while True:
            said = json.loads(self.line.recv(timeout=WITHIN))
            if said.get("id") == self.count:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def js(self, text: str) -> Any:
        found = self.do("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, text: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not self.js(text):
            assert time.monotonic() < deadline, (text, self.js("document.body.innerText"))
            time.sleep(0.03)

    def key(self, key: str, repeat: bool = False) -> None:
        for kind in ("keyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent", type=kind, key=key, code=CODES[key], autoRepeat=repeat
            )

    def click(self, id: str) -> None:
        place = f"document.getElementById('{id}').getBoundingClientRect()"
        x, y = self.js(f"[{place}.x + {place}.width / 2, {place}.y + {place}.height / 2]")
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, id: str) -> None:
        place = f"document.getElementById('{id}').getBoundingClientRect()"
        x, y = self.js(f"[{place}.x + {place}.width / 2, {place}.y + {place}.height / 2]")
        self.do("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def start(self, rater: str) -> None:
        self.until("document.activeElement.id === 'rater'")
        self.js("document.getElementById('rater').value = ''")
        self.do("Input.insertText", text=rater)
        self.click("start")

    def turn(self, number: int) -> None:
        """Waits for the image of that number."""
        self.until(
            f"document.getElementById('count').textContent.startsWith('{number} of') "
            "&& !document.getElementById('real').disabled"
        )

    def close(self) -> None:
        self.line.close()
        urllib.request.urlopen(f"{self.browser}/json/close/{self.about['id']}").read()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser that can be driven."""
    profile = tmp_path_factory.mktemp("profile")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", "--no-first-run", f"--user-data-dir={profile}",
        "--window-size=1280,900", "about:blank",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)
    try:
        told, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (told.is_file() and told.read_text().count("\n")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{told.read_text().splitlines()[0]}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tab(browser: str) -> Iterator[Any]:
    """Opens tabs, all on one browser."""
    opened: list[Tab] = []

    def open_(address: str) -> Tab:
        opened.append(Tab(browser, address))
        return opened[-1]

    yield open_
    for one in opened:
        one.line.close()


def answers(test: trial.Trial, rater: str) -> list[str]:
    return [one["answer"] for one in trial.load(test.folder).done[rater]]


def test_a_rater_answers_closes_the_page_comes_back_and_finishes(begun, serve, tab) -> None:
    test = begun(images=10)
    server = serve(test)
    page = tab(server.address)
    page.start("Ada")
    page.turn(1)
    assert page.js("document.getElementById('image').naturalWidth") == 8

    for number, key in enumerate(("f", "j", "ArrowLeft", "ArrowRight"), start=1):
        page.turn(number)
        page.key(key)
    page.turn(5)
    page.key("j", repeat=True)  # held down for too long: no answer
    page.click("generated")
    page.turn(6)
    page.close()  # in the middle
    assert answers(test, "ada") == ["generated", "real", "generated", "real", "generated"]

    back = tab(server.address)
    back.until("document.getElementById('rater').value === 'ada'")  # it is remembered
    back.click("start")
    back.turn(6)
    shown = back.js("document.getElementById('image').src")
    assert shown.startswith("blob:")  # no name that says anything
    for number in range(6, 11):
        back.turn(number)
        back.tap("real")
    back.until("!document.getElementById('end').hidden")

    assert answers(test, "ada")[5:] == ["real"] * 5
    assert "All 10 answers are stored." in back.js("document.body.innerText")
    assert not any(
        word in back.js("document.body.innerText") for word in ("right", "wrong", "correct")
    )
    back.click("other")
    back.until("document.getElementById('rater').value === ''")
    asked = [
        event["params"]["request"]["url"]
        for event in [*page.events, *back.events]
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert len(asked) > 20
    assert all(url.startswith((server.address, "blob:", "data:", "about:")) for url in asked)
    errors = [e for e in [*page.events, *back.events] if e.get("method") == "Log.entryAdded"]
    assert not errors, errors  # such as a breach of the content security policy


def test_two_tabs_of_a_rater_go_on_from_each_other(begun, serve, tab) -> None:
    test = begun(images=4)
    server = serve(test)
    one, two = tab(server.address), tab(server.address)
    for page in (one, two):
        page.start("ada")
        page.turn(1)

    one.key("f")
    one.turn(2)
    two.key("j")  # still at the first image
    two.turn(2)

    assert "had an answer already" in two.js("document.getElementById('said').textContent")
    assert answers(test, "ada") == ["generated"]


def test_feedback_is_shown_after_the_answer(begun, serve, tab) -> None:
    test = begun(images=4, feedback=True)
    page = tab(serve(test).address)
    page.start("ada")
    for number in range(1, 4):
        page.turn(number)
        page.key("f")
        page.turn(number + 1)
        generated = test.generated[test.order("ada")[number - 1]]
        said = page.js("document.getElementById('said').textContent")
        kind = (
            "Right: the last image was generated."
            if generated
            else "Wrong: the last image was real."
        )
        assert said == kind
    page.key("f")
    page.until("!document.getElementById('end').hidden")

    assert "2 were right" in page.js("document.body.innerText")  # half are generated


def test_a_full_disk_is_said_on_the_page(begun, serve, tab, monkeypatch) -> None:
    test = begun(images=4)
    page = tab(serve(test).address)
    page.start("ada")
    page.turn(1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trial.os, "pwrite", full)
        page.key("f")
        page.until("!document.getElementById('problem').hidden")
        assert "No space left on device" in page.js("document.getElementById('why').textContent")
        assert page.js("document.getElementById('count').textContent") == "1 of 4"

    page.click("again")
    page.turn(2)
    assert page.js("document.getElementById('problem').hidden")
    assert answers(test, "ada") == ["generated"]


def test_after_the_end_the_page_says_that_an_answer_was_not_stored(begun, serve, tab) -> None:
    test = begun(images=4)
    page = tab(serve(test).address)
    page.start("ada")
    page.turn(1)

    test.end()
    page.key("f")
    page.until("!document.getElementById('problem').hidden")

    assert "this answer was not stored" in page.js("document.getElementById('why').textContent")
    assert page.js("document.getElementById('count').textContent") == "1 of 4"
    assert not trial.load(test.folder).done


def test_a_server_that_was_stopped_and_started_is_found_again(begun, serve, tab) -> None:
    test = begun(images=4)
    server = serve(test)
    page = tab(server.address)
    page.start("ada")
    page.turn(1)
    page.key("f")
    page.turn(2)

    server.sessions.clear()  # as after a new start on the same port
    server.sent.clear()
    page.key("j")
    page.until("!document.getElementById('real').disabled")
    page.turn(2)  # it was not counted: the same image again
    page.key("j")
    page.turn(3)

    assert answers(test, "ada") == ["generated", "real"]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_hit(begun, serve, tab, width, height, scheme) -> None:
    test = begun(images=4)
    page = tab(serve(test).address)
    page.do(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
        mobile=width < 500,
    )  # fmt: skip
    theme = [{"name": "prefers-color-scheme", "value": scheme}]
    page.do("Emulation.setEmulatedMedia", features=theme)
    page.start("ada")
    page.turn(1)

    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.js(beyond) == 0
    for id in ("real", "generated"):
        box = page.js(f"(b => [b.width, b.height, b.bottom])({id}.getBoundingClientRect())")
        assert box[0] >= 120
        assert box[1] >= 80
        assert box[2] <= height  # no scrolling to answer
    assert page.js("[image.width, image.height].join()") == "256,256"
    assert page.js("getComputedStyle(image).imageRendering") == "pixelated"
    ink, paper = page.js("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert abs(brightness(ink) - brightness(paper)) > 150


def brightness(colour: str) -> float:
    """Of 'rgb(1, 2, 3)'."""
    return sum(float(x) for x in colour.partition("(")[2].rstrip(")").split(",")[:3]) / 3
