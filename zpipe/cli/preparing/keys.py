"""zpipe keys new|trust|list|rotate|drop. Does not belong here: what a key is used for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from zpipe import folders
from zpipe.cli.parameters import json_option
from zpipe.config.hosts import is_key
from zpipe.config.reading import values
from zpipe.errors import ExitCode, OperatorError

if TYPE_CHECKING:
    from zpipe.runtime.key_files import KeyFiles

_RELOAD = "systemctl reload 'zpipe@*', or SIGHUP"


class HostName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of a host, as [hosts.NAME] has it."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return values.name(value)
        except ValueError as error:
            self.fail(f"the name of a host {error}", param, ctx)


class NamedKey(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """'NAME = KEY'. The command gets both."""

    name = "name=key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        host, equals, key = (part.strip() for part in str(value).partition("="))
        key = key.strip("\"'")
        if not equals or not is_key(key):
            self.fail(f"{value!r} is no 'NAME = KEY' with a public key of 40 characters, as `zpipe keys list` shows it")
        return HostName().convert(host, param, ctx), key


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Keys of hosts: who may take part in a pipeline over the network, and whom it connects to.

    Each host has a private key, for its owner only, and the public keys of the others, in their configs or in trusted.toml. They
    are in /etc/zpipe/keys for root, else in ~/.config/zpipe/keys; $ZPIPE_KEYS_DIR names another folder.
    """


@command.command()
@click.argument("host", type=HostName())
@json_option
def new(host: str, as_json: bool) -> ExitCode:
    """Make the private key of this host, and print its public key."""
    from zpipe.transport.curve import new_pair

    files = _locked_files()
    path = files.path(host)
    if path.exists():
        raise OperatorError(
            f"{path} is there already: `zpipe keys rotate {host}` makes another, without an interruption"
        )
    pair = new_pair()
    files.write_private(path, pair.secret)
    _trust(files, host, pair.public)
    if as_json:
        click.echo(json.dumps({"host": host, "public": pair.public, "private_file": str(path)}))
    else:
        click.echo(f"{host} = {pair.public}")
        click.echo(
            f"zpipe: the private key is in {path}. On each other host: zpipe keys trust '{host} = {pair.public}'",
            err=True,
        )
    return ExitCode.DONE


@command.command()
@click.argument("key", metavar="'NAME = KEY'", type=NamedKey())
@json_option
def trust(key: tuple[str, str], as_json: bool) -> ExitCode:
    """Trust a public key of a host, beside those that are trusted already.

    It counts in pipelines whose [hosts] have that name. Instances that run take it over on SIGHUP (systemctl reload).
    """
    files = _locked_files()
    host, public = key
    owner = next((name for name, keys in files.trusted().items() if public in keys and name != host), "")
    if owner:
        raise OperatorError(f"this key is trusted as one of {owner} already: a key tells who somebody is")
    _trust(files, host, public)
    if as_json:
        click.echo(json.dumps({"host": host, "trusted": list(files.trusted()[host])}))
    else:
        click.echo(f"{host} is trusted by {_count(len(files.trusted()[host]))}")
        click.echo(f"zpipe: instances that run take it over when they are reloaded ({_RELOAD})", err=True)
    return ExitCode.DONE


@command.command("list")
@json_option
def list_(as_json: bool) -> ExitCode:
    """Show the public keys of this host's private ones, and those that are trusted."""
    from zpipe.runtime import this_host

    files = _files()
    own = {host: _public(files, host) for host in this_host.private_keys(files.folder)}
    trusted = files.trusted()
    if as_json:
        value = {host: {"public": key, "next": _public(files, host, new=True)} for host, key in own.items()}
        click.echo(json.dumps({"folder": str(files.folder), "own": value, "trusted": trusted}))
        return ExitCode.DONE
    for host, key in own.items():
        click.echo(f"{host} = {key or '(its private key is not yours to read)'}   private key here")
        if following := _public(files, host, new=True):
            click.echo(f"{host} = {following}   new, not in use yet: zpipe keys rotate {host} --finish")
    for host, keys in trusted.items():
        for key in keys:
            click.echo(f"{host} = {key}   trusted")
        if not keys:
            click.echo(f"{host}   dropped: nobody of it is let in")
    if not own and not trusted:
        click.echo(f"zpipe: no keys in {files.folder}: `zpipe keys new HOST` makes one", err=True)
    return ExitCode.DONE


@command.command()
@click.argument("host", type=HostName())
@click.option("--finish", is_flag=True, help="Put the new key to use. The others have to trust it by then.")
@json_option
def rotate(host: str, finish: bool, as_json: bool) -> ExitCode:
    """Change the key of this host in two steps, with nobody cut off between them.

    The first makes a new key, which the other hosts are to trust beside the old one. The second, with --finish, has this host use
    it. Then the others can drop the old one.
    """
    from zpipe.transport.curve import new_pair

    files = _locked_files()
    old = _public(files, host)
    if not files.path(host).exists():
        raise OperatorError(f"{host} has no private key here ({files.path(host)}): `zpipe keys new {host}` makes one")
    if finish:
        following = _public(files, host, new=True)
        if not following:
            raise OperatorError(f"{host} has no new key: `zpipe keys rotate {host}` makes one")
        files.put_new_to_use(host)
        steps = [
            f"restart the instances of this host (systemctl restart 'zpipe@*'): they go on with {following}",
            f"on each host: zpipe keys drop '{host} = {old}', and reload ({_RELOAD})",
        ]
    else:
        if files.path(host, new=True).exists():
            raise OperatorError(f"{host} has a new key already: `zpipe keys rotate {host} --finish` puts it to use")
        pair = new_pair()
        following = pair.public
        files.write_private(files.path(host, new=True), pair.secret)
        _trust(files, host, following)
        steps = [
            f"on each other host: zpipe keys trust '{host} = {following}', and reload ({_RELOAD}); reload this host, too",
            f"then here: zpipe keys rotate {host} --finish",
        ]
    if as_json:
        click.echo(json.dumps({"host": host, "public": following, "old": old, "in_use": finish, "steps": steps}))
        return ExitCode.DONE
    click.echo(f"{host} = {following}")
    for number, step in enumerate(steps, 1):
        click.echo(f"zpipe: {number}. {step}", err=True)
    return ExitCode.DONE


@command.command()
@click.argument("what", metavar="NAME|'NAME = KEY'")
@json_option
def drop(what: str, as_json: bool) -> ExitCode:
    """Trust a host no more, or one of its keys.

    Instances that run end the sessions of a dropped key when they are reloaded (SIGHUP, systemctl reload).
    """
    files = _locked_files()
    trusted = files.trusted()
    host, key = NamedKey().convert(what, None, None) if "=" in what else (HostName().convert(what, None, None), "")
    keys = trusted.get(host, ())
    if not keys or (key and key not in keys):
        where = f"{files.folder / 'trusted.toml'} has no such key of {host}"
        raise OperatorError(f"{where}: if it stands in [hosts.{host}] of a pipeline's file, take it out there")
    left = tuple(one for one in keys if key and one != key)
    files.write_trusted({**trusted, host: left})
    if as_json:
        click.echo(json.dumps({"host": host, "trusted": list(left)}))
    else:
        click.echo(f"{host} is trusted by {_count(len(left))}")
        click.echo(f"zpipe: sessions of a dropped key end when instances are reloaded ({_RELOAD})", err=True)
    return ExitCode.DONE


def _files() -> KeyFiles:
    from zpipe.runtime.key_files import KeyFiles

    return KeyFiles(folders.keys_folder(os.environ))


def _locked_files() -> KeyFiles:
    """For a command that changes them: until it ends, no other does."""
    files = _files()
    click.get_current_context().with_resource(files.locked())
    return files


def _trust(files: KeyFiles, host: str, public: str) -> None:
    trusted = files.trusted()
    files.write_trusted({**trusted, host: tuple(dict.fromkeys((*trusted.get(host, ()), public)))})


def _public(files: KeyFiles, host: str, new: bool = False) -> str:
    """The public key of a private one; "" if it is not there, or not for this user."""
    from zpipe.runtime import this_host
    from zpipe.transport.curve import pair_of

    try:
        return pair_of(this_host.read_key(files.path(host, new), host)).public
    except PermissionError:
        return ""
    except OperatorError:
        if os.access(files.path(host, new), os.R_OK):
            raise
        return ""
    except ValueError:
        raise OperatorError(f"{files.path(host, new)} holds no private key") from None


def _count(keys: int) -> str:
    return "no key: nobody of it is let in" if not keys else "1 key" if keys == 1 else f"{keys} keys"
