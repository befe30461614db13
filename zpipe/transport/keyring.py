"""The keys of a pipeline as sockets take them, from its config and the private key of this host. Does not belong here: where the
private key is kept, and what a socket does with it."""

from __future__ import annotations

from zpipe.config import PipelineConfig
from zpipe.errors import OperatorError
from zpipe.transport.curve import KeyPair, Problem, TrustedKeys, pair_of
from zpipe.transport.operator_sockets import OperatorSockets


def pair_from(secret: str, host: str) -> KeyPair | None:
    """The pair of a private key; None where there are no keys. Raises OperatorError."""
    if not secret:
        return None
    try:
        return pair_of(secret)
    except ValueError as error:
        raise OperatorError(f"the private key of host {host!r} {error}: `zpipe keys new {host}` makes one") from None


def operator_sockets(config: PipelineConfig, secret: str, host: str, *topics: bytes) -> OperatorSockets:
    """The sockets of a command on this host."""
    return OperatorSockets(*topics, pair=pair_from(secret, host), trusted=trusted_hosts(config))


def trusted_hosts(config: PipelineConfig) -> TrustedKeys:
    """Whom a command connects to."""
    return TrustedKeys({name: one.keys for name, one in config.hosts.items()})


def words_of(problem: Problem, host: str, own: str) -> str:
    """Why a command was not let in, for people. `own`: this host and its key, as `zpipe keys trust` takes them."""
    match problem:
        case "unknown key":
            return f"{host} does not know this host's key: run `zpipe keys trust '{own}'` on {host}, and reload there (SIGHUP)"
        case "wrong server key":
            return f"{host} has another key than the one trusted here: `zpipe keys list` on {host} shows it"
        case "no keys":
            return f"{host} has no keys: is `insecure` the same in both configs?"
        case _:
            return f"{host} refuses this host's key"


def trusted_by(config: PipelineConfig, stage: str) -> TrustedKeys:
    """Whom an instance of the stage lets in: every host of the pipeline, but to its inbox only hosts of its upstream stages."""
    upstream = {entry.stage for entry in config.stages[stage].inputs}
    producers = frozenset(host for name in upstream for host in config.stages[name].hosts)
    return TrustedKeys({name: host.keys for name, host in config.hosts.items()}, producers)
