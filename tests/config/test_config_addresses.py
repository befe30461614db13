"""Addresses: syntax, clashes, who may reach them, and the length of a socket's path."""

from __future__ import annotations

import pytest
from config_texts import stages, step
from config_types import Problems

from zpipe.config import Address, parse_address

TOO_LONG = 107 - len("/t.bbbb.1/inbox-123456789012.sock") + 1


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("tcp://127.0.0.1:1", Address("127.0.0.1", 1), True),
        ("tcp://127.9.9.9:65534", Address("127.9.9.9", 65534), True),
        ("tcp://localhost:5000", Address("localhost", 5000), True),
        ("tcp://[::1]:5000", Address("[::1]", 5000), True),
        ("tcp://0.0.0.0:5000", Address("0.0.0.0", 5000), False),
        ("tcp://10.0.0.1:5000", Address("10.0.0.1", 5000), False),
        ("tcp://db-1.example.org:5000", Address("db-1.example.org", 5000), False),
    ],
)
def test_addresses(text: str, address: Address, loopback: bool) -> None:
    assert parse_address(text) == address
    assert address.is_loopback is loopback


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:5000",
        "tcp://:5000",
        "tcp://h",
        "tcp://h:0",
        "tcp://h:65535",
        "tcp://*:5000",
        "ipc:///x",
        "tcp://h:5 ",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r'must be "tcp://HOST:PORT"'):
        parse_address(text)


@pytest.mark.parametrize("text", ["tcp://300.0.0.1:5000", "tcp://127.1:5000", "tcp://[::z]:5000", "tcp://[1:2]:5"])
def test_what_is_no_ip(text: str) -> None:
    with pytest.raises(ValueError, match=r"holds no valid IP address|must be"):
        parse_address(text)


INSECURE = "[security]\ninsecure = true"


def listen(*addresses: str, instances: int = 1, security: str = INSECURE) -> str:
    text = ", ".join(f'"{address}"' for address in addresses)
    return stages(step("b", f"instances = {instances}\nlisten = [{text}]"), security)


@pytest.mark.parametrize("port", [5000, 5001, 4999])
@pytest.mark.parametrize(
    ("one", "other"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("h", "H")],
)
def test_addresses_that_clash(problems: Problems, one: str, other: str, port: int) -> None:
    first, second = f"tcp://{one}:5000", f"tcp://{other}:{port}"
    text = listen(first, second, instances=2)
    assert problems(text) == [f"9: stages.b.listen[1]: {second} clashes with {first} of b: each uses PORT and PORT + 1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:5000", "127.0.0.1:5002"),
        ("10.0.0.1:5000", "10.0.0.2:5000"),
        ("h1:5000", "h2:5000"),
        ("h1:5", "10.0.0.1:5"),
    ],
)
def test_addresses_that_do_not_clash(problems: Problems, one: str, other: str) -> None:
    text = listen(f"tcp://{one}", f"tcp://{other}", instances=2)
    assert problems(text) == []


def test_addresses_of_two_stages_clash(problems: Problems) -> None:
    text = stages('listen = "tcp://127.0.0.1:5000"', step("b", 'listen = "tcp://127.0.0.1:5001"'), INSECURE)
    assert problems(text) == [
        "9: stages.b.listen: tcp://127.0.0.1:5001 clashes with tcp://127.0.0.1:5000 of a: each uses PORT and PORT + 1"
    ]


def test_each_instance_has_an_address(problems: Problems) -> None:
    two = ("tcp://127.0.0.1:5000", "tcp://127.0.0.1:5002")
    assert problems(listen(*two, instances=1)) == []
    assert problems(listen(*two, instances=2)) == []
    assert problems(listen(*two, instances=3)) == [
        "9: stages.b.listen: has 2 for 3 instances; each instance needs an address"
    ]


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("127.0.0.1", "every user of this machine"),
        ("localhost", "every user of this machine"),
        ("[::1]", "every user of this machine"),
        ("10.0.0.1", "everybody on the network"),
        ("db-1.example.org", "everybody on the network"),
    ],
)
def test_others_are_let_in_on_purpose_only(problems: Problems, host: str, who: str) -> None:
    """Loopback is open to all users of the machine, where a Unix socket's folder is not."""
    assert problems(listen(f"tcp://{host}:5000", security="")) == [
        f"9: stages.b.listen[0]: tcp://{host}:5000 has no keys, so {who} could read messages, take the place of a stage, and"
        ' pause or drain it; place the stage on a `host` that has a key, or set "insecure = true" in [security] to allow that'
    ]
    assert problems(listen(f"tcp://{host}:5000", security="[security]\ninsecure = false")) != []
    assert problems(listen(f"tcp://{host}:5000")) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_an_address_that_nobody_can_connect_to_is_refused(problems: Problems, host: str) -> None:
    assert problems(listen(f"tcp://{host}:5000")) == [
        f"9: stages.b.listen[0]: tcp://{host}:5000 is every address of its machine, and the others connect to what stands"
        " here: name the one by which they reach it"
    ]
    assert problems(listen("tcp://127.0.0.1:5000")) == []


def test_the_path_of_a_socket_has_a_limit(problems: Problems) -> None:
    text = stages(step("bbbb"))
    assert problems(text, {"ZPIPE_RUNTIME_DIR": "/" + "x" * (TOO_LONG - 2)}) == []
    [problem] = problems(text, {"ZPIPE_RUNTIME_DIR": "/" + "x" * (TOO_LONG - 1)})
    assert problem.startswith("5: stages.bbbb: the path of its sockets would have 108 bytes, at most 107 can be: /xxx")
    with_address = stages(step("bbbb", 'listen = "tcp://127.0.0.1:5000"'), INSECURE)
    assert problems(with_address, {"ZPIPE_RUNTIME_DIR": "/" + "x" * (TOO_LONG - 1)}) == []


def test_the_limit_counts_bytes(problems: Problems) -> None:
    env = {"ZPIPE_RUNTIME_DIR": "/" + "é" * (TOO_LONG // 2)}
    assert len(problems(stages(step("bbbb")), env)) == 1
