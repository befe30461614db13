"""`notify` to an SMTP server of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from zpipe import Message, Secret
from zpipe.errors import OperatorError
from zpipe.testing import make_context, stage
from zpipe_plugins.web.notify import Notify, Options

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # which a plugin of Apprise imports


class Box:
    """A mail server: what it has taken, and what it says to a recipient."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, str]] = []
        self.says: dict[str, str] = {}
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.says:
            return self.says[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content)
        text = next(part for part in mail.walk() if part.get_content_type() == "text/plain").get_payload(decode=True)
        assert isinstance(text, bytes)
        self.mails.append((envelope.rcpt_tos[0], str(mail["Subject"]), text.decode().strip()))
        return "250 OK"

    def url(self, to: str = "ops@b.example") -> Secret:
        return Secret(f"mailto://127.0.0.1:{self.port}?from=zpipe@a.example&to={to}&format=text&mode=insecure")


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    made.controller.start()
    yield made
    if made.controller.server is not None:
        made.controller.stop()


TEXTS = {"title": "{level}: disk", "body": "{host} has {free} GB"}


def test_a_message_is_a_mail(box: Box, tmp_path: Path) -> None:
    with stage("notify", {"urls": [box.url()], **TEXTS}, last=True, folder=tmp_path) as s:
        s.send({"level": "alert", "host": "db1", "free": 2})
        s.send({"level": "alert"})
        assert box.mails == [("ops@b.example", "alert: disk", "db1 has 2 GB")]
        assert [letter.reason for letter in s.dead] == ["field 'host', which the text needs, is missing"]


def test_what_comes_again_is_not_sent_again(box: Box, tmp_path: Path) -> None:
    context = make_context(Options([box.url(), box.url("b@b.example")]), config_dir=tmp_path)
    for _ in range(2):
        plugin = Notify()
        plugin.open(context)
        plugin.process(Message({"n": 1}, id="m1", attempt=2), context)
        plugin.close(context)
    assert [(to, body) for to, _, body in box.mails] == [("ops@b.example", '{"n":1}'), ("b@b.example", '{"n":1}')]


def test_a_server_that_is_away_is_waited_for(box: Box, tmp_path: Path) -> None:
    with stage("notify", {"urls": [box.url()], "body": "x"}, last=True, folder=tmp_path) as s:
        box.controller.stop()
        id = s.send(1)
        s.advance("1m")
        assert s.dead == [] and s.attempts[id] > 3 and box.mails == []
        box.controller = Controller(box, hostname="127.0.0.1", port=box.port)
        box.controller.start()
        s.advance("1m")
        assert len(box.mails) == 1


@pytest.mark.parametrize(("answer", "waits"), [("550 no such user", False), ("451 try again later", True)])
def test_a_refusal_is_told_in_the_words_of_the_service(box: Box, tmp_path: Path, answer: str, waits: bool) -> None:
    box.says["ops@b.example"] = answer
    with stage("notify", {"urls": [box.url()], "body": "x"}, last=True, folder=tmp_path) as s:
        s.send(1)
        s.advance("1m")
        if waits:
            assert s.dead == []
        else:
            assert "no such user" in s.dead[0].reason
        box.says.clear()
        s.advance("1m")
        assert len(box.mails) == waits


def test_one_place_that_is_away_does_not_repeat_the_other(box: Box, tmp_path: Path) -> None:
    box.says["b@b.example"] = "451 try again later"
    with stage("notify", {"urls": [box.url(), box.url("b@b.example")], "body": "x"}, last=True, folder=tmp_path) as s:
        s.send(1)
        s.advance("1m")
        box.says.clear()
        s.advance("1m")
        assert sorted(to for to, _, _ in box.mails) == ["b@b.example", "ops@b.example"]


def test_a_url_that_is_none_and_a_secret_stay_unsaid(tmp_path: Path) -> None:
    context = make_context(Options([Secret("nothing://hunter2")]), config_dir=tmp_path)
    with pytest.raises(OperatorError, match="number 1 is no URL that Apprise knows") as caught:
        Notify().open(context)
    assert "hunter2" not in str(caught.value)
