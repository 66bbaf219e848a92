"""The page's server over real HTTP: who may vote, on what, and that no vote is lost or doubled."""

import errno
import http.client
import json
import os
import socket
import threading

import pytest

from lit_gen.harness.human import server as served
from lit_gen.harness.human import trial
from lit_gen.harness.human.server import Server
from lit_gen.harness.spec import UserError


def test_a_rater_sees_each_image_once_and_is_told_nothing(begun, serve, rater) -> None:
    test = begun(images=10)
    ada = rater(serve(test))
    replies = []

    for i in range(10):
        assert ada.turn["done"] == i
        replies.append(ada.see_and_vote("real" if i % 2 else "generated")[1])

    assert ada.turn == {"done": 10, "total": 10, "image": None}
    assert {frozenset(reply) for reply in replies} == {frozenset({"done", "total", "image"})}
    shown = [one["image"] for one in test.done["ada"]]
    assert len(set(shown)) == 10
    assert test.generated[shown].sum() == 5
    assert [one["answer"] for one in test.done["ada"]] == ["generated", "real"] * 5
    assert ada.vote("real", "0" * 32)[0] == 409  # nothing is left


def test_feedback_comes_after_the_vote_and_is_right(begun, serve, rater) -> None:
    test = begun(images=10, feedback=True)
    ada = rater(serve(test))
    assert "was" not in ada.turn

    for position in range(10):
        _, reply = ada.see_and_vote("real")
        kind = "generated" if test.generated[test.order("ada")[position]] else "real"
        assert (reply["was"], reply["right"]) == (kind, kind == "real")


def test_a_vote_is_on_the_disk_when_it_is_confirmed(begun, serve, rater, monkeypatch) -> None:
    test = begun()
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(trial.os, "fsync", lambda file: (synced.append(file), fsync(file)))
    ada = rater(serve(test))

    ada.see_and_vote("real")

    lines = (test.folder / "votes/ada.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["answer"] == "real"
    assert len(synced) == 2  # the file, and the folder that it is new in


def test_another_server_goes_on_with_the_same_images(begun, serve, rater) -> None:
    test = begun()
    ada = rater(serve(test))
    for answer in ("real", "generated", "real"):
        ada.see_and_vote(answer)
    waiting = ada.turn["image"]

    again = rater(serve(trial.load(test.folder)), "  ADA ")  # as people type it

    assert (again.turn["done"], again.turn["image"]) == (3, waiting)
    assert again.see_and_vote("real")[0] == 200


def test_two_tabs_do_not_count_twice(begun, serve, rater) -> None:
    test = begun()
    server = serve(test)
    one, two = rater(server), rater(server)
    assert one.turn["image"] == two.turn["image"]
    one.image()
    two.image()

    first, second = one.vote("real"), two.vote("generated")

    assert (first[0], second[0]) == (200, 409)
    assert two.turn["image"] == one.turn["image"]  # the second goes on at the right place
    assert [vote["answer"] for vote in test.done["ada"]] == ["real"]


def test_votes_that_race_are_stored_once(begun, serve, rater) -> None:
    test = begun()
    server = serve(test)
    tabs = [rater(server) for _ in range(8)]
    for tab in tabs:
        tab.image()
    statuses = []
    threads = [
        threading.Thread(target=lambda tab=tab: statuses.append(tab.vote("real")[0]))
        for tab in tabs
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200] + [409] * 7
    assert len((test.folder / "votes/ada.jsonl").read_text().splitlines()) == 1


def test_raters_have_orders_of_their_own(begun, serve, rater) -> None:
    test = begun(images=20)
    server = serve(test)
    ada, bo = rater(server, "ada"), rater(server, "bo")

    assert ada.turn["image"] != bo.turn["image"]
    assert (test.order("ada") != test.order("bo")).any()
    ada.see_and_vote("real")
    assert bo.vote("real")[0] == 409  # he has not seen his yet
    assert set(test.done) == {"ada"}


def test_only_the_image_that_is_shown_can_be_answered(begun, serve, rater) -> None:
    test = begun()
    ada = rater(serve(test))
    later = test.name("ada", 1)

    assert ada.vote("real")[0] == 409  # known by name, but not yet sent
    assert ada.image(later)[0] == 404
    ada.image()
    assert ada.vote("real", later)[0] == 409
    assert ada.vote("maybe")[0] == 400
    assert not test.done.get("ada")
    assert ada.vote("real")[0] == 200


@pytest.mark.parametrize("token", ["", "x" * 43, None])
def test_without_its_token_nothing_is_served(begun, serve, rater, token) -> None:
    test = begun()
    ada = rater(serve(test))
    ada.image()
    ada.token = token

    assert ada.image()[0] == 401
    assert ada.vote("real")[0] == 401
    assert not test.done.get("ada")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a" * 33, "ä", "a\n", "-a", 7, None, ["a"]])
def test_pseudonyms_that_no_file_should_have(begun, serve, rater, name) -> None:
    if name == "a\n":
        name = "a\nb"  # blanks around it are only what people type
    ada = rater(serve(begun()), start=False)

    assert ada.post("/api/start", {"rater": name})[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 403),  # another port
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_other_sites_cannot_ask(begun, serve, rater, headers, status) -> None:
    ada = rater(serve(begun()))

    assert ada.post("/api/start", {"rater": "eve"}, **headers)[0] == status


def test_its_own_names_may_ask(begun, serve, rater) -> None:
    server = serve(begun())
    host = f"localhost:{server.server_port}"

    told = {"Host": host, "Origin": f"http://{host}"}
    assert rater(server, start=False).post("/api/start", {"rater": "eve"}, **told)[0] == 200


def test_bodies_that_are_none(begun, serve, rater) -> None:
    ada = rater(serve(begun()))
    kind = {"Content-Type": "application/json"}
    large = {"Content-Length": str(served.LARGEST_BODY + 1)}

    assert ada.ask("POST", "/api/vote", b"{", kind)[0] == 400
    assert ada.ask("POST", "/api/vote", b"[]", kind)[0] == 400
    assert ada.ask("POST", "/api/vote", b"[" * 2000, kind)[0] == 400
    assert ada.ask("POST", "/api/vote", b" " * (served.LARGEST_BODY + 1), kind)[0] == 413
    assert ada.ask("POST", "/api/vote", b"{}", kind | large)[0] == 413  # not waited for
    assert ada.ask("POST", "/api/vote", b"{}", kind | {"Content-Length": "-1"})[0] == 411
    assert ada.ask("POST", "/api/other", b"{}", kind)[0] == 404
    assert ada.ask("GET", "/../trial.json")[0] == 404
    assert ada.ask("GET", "/trial.py")[0] == 404


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_vote_that_the_disk_refuses_is_not_pretended(
    begun, serve, rater, monkeypatch, code
) -> None:
    test = begun()
    server = serve(test)
    ada = rater(server)
    ada.see_and_vote("real")
    before = (test.folder / "votes/ada.jsonl").read_bytes()
    pwrite = os.pwrite
    asked = ada.turn

    def half(file: int, content: bytes, at: int) -> int:
        """Takes ten bytes, and then no more."""
        if len(content) > 20:
            return pwrite(file, content[:10], at)
        raise OSError(code, os.strerror(code))

    def full(file: int, content: bytes, at: int) -> int:
        if at > len(before):
            raise OSError(code, os.strerror(code))
        return half(file, content, at)

    monkeypatch.setattr(trial.os, "pwrite", full)
    status, reply = ada.see_and_vote("generated")

    assert status == 507
    assert os.strerror(code) in reply["error"]
    assert "not counted" in reply["error"]
    assert any(os.strerror(code) in said and "ada" in said for said in server.complaints)
    assert (test.folder / "votes/ada.jsonl").read_bytes() == before
    assert len(test.done["ada"]) == 1

    monkeypatch.undo()
    ada.turn = asked
    assert ada.vote("generated")[0] == 200  # once there is space
    assert [v["answer"] for v in trial.load(test.folder).done["ada"]] == ["real", "generated"]


def test_a_port_that_is_taken(begun) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="another with --port"):
            Server(begun(), other.getsockname()[1], print)


def test_after_the_end_no_open_connection_votes(begun, serve, rater) -> None:
    """Ctrl-C ends the server; the threads of connections that browsers keep go on."""
    test = begun()
    server = serve(test)
    ada = rater(server)
    ada.see_and_vote("real")
    kind = {"Content-Type": "application/json", "X-Token": ada.token}
    lines = [http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10) for _ in "12"]
    for line in lines:
        line.request("GET", f"/api/image/{ada.turn['image']}", headers=kind)
        assert line.getresponse().read()
    path = test.folder / "votes/ada.jsonl"
    before = path.read_bytes()

    server.shutdown()
    server.server_close()
    vote = json.dumps({"image": ada.turn["image"], "answer": "real"})
    lines[0].request("POST", "/api/vote", vote, kind)
    reply = lines[0].getresponse()
    said = json.loads(reply.read())["error"]
    lines[1].request("POST", "/api/start", '{"rater": "bo"}', kind)

    assert reply.status == 503
    assert "The test has ended here; this answer was not stored" in said
    assert lines[1].getresponse().status == 503
    assert path.read_bytes() == before
    assert len(test.done["ada"]) == 1
    for line in lines:
        line.close()


def test_a_vote_that_waits_while_the_test_ends_is_not_stored(
    begun, serve, rater, monkeypatch
) -> None:
    test = begun()
    ada = rater(serve(test))
    ada.image()
    vote = trial.Trial.vote

    def late(*words: object) -> None:
        test.end()
        vote(*words)

    monkeypatch.setattr(trial.Trial, "vote", late)
    status, reply = ada.vote("real")

    assert status == 503
    assert "was not stored" in reply["error"]
    assert not list(test.folder.glob("votes/*"))


def test_a_bug_ends_one_answer_and_not_the_server(begun, serve, rater, monkeypatch) -> None:
    test = begun()
    server = serve(test)
    ada = rater(server)
    with monkeypatch.context() as patch:
        patch.setattr(trial.Trial, "png", lambda *_: 1 / 0)
        status, _, content = ada.image()

    assert status == 500
    assert b"division" not in content
    assert "division" in server.complaints[0]
    assert ada.see_and_vote("real")[0] == 200
