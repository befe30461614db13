"""Which hellos a producer accepts: from which consumers, and with which addresses of their inboxes.

May live here: what the config and the sender say of a hello. Addresses are compared as text, never resolved or opened; which
sessions are open only `outlet_sessions` knows.

A hello has its producer connect to an address and send messages there. So the address must be one that the config leads to, or
the sender's own: else whoever reaches the feedback socket could have a daemon connect to any service in its network, or have
the messages sent to a folder of theirs.
"""

from __future__ import annotations

from zpipe.core.policy import ConsumerPolicy
from zpipe.core.wire import frames
from zpipe.core.wire.peer_address import MAX_SOCKET_PATH_BYTES, TCP, ShownKey, same_host


def problem_of(hello: frames.Hello, sender: str, policy: ConsumerPolicy, shown: ShownKey) -> str:
    """Why the hello cannot be met, in words; "" if it can.

    sender  the host that it came from, or, if not by tcp, a text that is no host;  shown: what it has proved by a key
    """
    if hello.instance < 1:
        return f"instance {hello.instance}: instances are numbered from 1"
    if policy.highest is not None and hello.instance > policy.highest:
        return f"instance {hello.instance}: `listen` of stage {hello.stage!r} has {policy.highest} addresses"
    if policy.placed and (problem := _problem_of_key(hello, policy.placed[hello.instance - 1], shown)):
        return problem
    if found := TCP.fullmatch(hello.inbox):
        return _problem_of_host(found[1], int(found[2]), hello.inbox, sender, policy)
    if hello.inbox.startswith("ipc://"):
        return _problem_of_path(hello.inbox.removeprefix("ipc://"), hello, policy)
    return f"inbox {hello.inbox[:160]!r} is neither tcp://HOST:PORT nor ipc://PATH"


def _problem_of_key(hello: frames.Hello, host: str, shown: ShownKey) -> str:
    """Over ipc no key is shown: only this user's processes come that way."""
    over_tcp = bool(shown.key) or not hello.inbox.startswith("ipc://")
    if over_tcp and shown.host != host:
        whose = f"this is a key of host {shown.host!r}" if shown.host else "this key is not trusted any more"
        return f"{hello.stage}.{hello.instance} runs on host {host!r}, and {whose}"
    return ""


def _problem_of_host(host: str, port: int, inbox: str, sender: str, policy: ConsumerPolicy) -> str:
    if not 1 <= port <= 65535:
        return f"inbox {inbox[:160]!r}: there is no such port"
    if any(same_host(host, other) for other in (sender, *policy.hosts)):
        return ""
    named = f" or at {', '.join(policy.hosts)}" if policy.hosts else ""
    return f"inbox {inbox[:160]!r} must be at the consumer's own host ({sender}){named}"


def _problem_of_path(path: str, hello: frames.Hello, policy: ConsumerPolicy) -> str:
    folder, _, name = path.rpartition("/")
    own = f"{hello.pipeline}.{hello.stage}.{hello.instance}"
    if not policy.folders:
        return f"inbox {hello.inbox[:160]!r}: stage {hello.stage!r} has tcp addresses"
    if name in ("", ".", "..") or folder not in [f"{root}/{own}" for root in policy.folders]:
        return f"inbox {hello.inbox[:160]!r} must be in {own} of {' or '.join(policy.folders)}"
    if "\0" in path or len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        return f"inbox {hello.inbox[:160]!r} is no path of a socket"
    return ""
