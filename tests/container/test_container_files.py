"""The files of packaging/container, by their schemas, by zpipe's own commands, and by each other. Their containers run in
test_containers.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from zpipe import config
from zpipe.cli import group
from zpipe.transport.curve import new_pair

FOLDER = Path(__file__).parents[2] / "packaging/container"
KINDS = ("pipeline", "stages")
IN_CONTAINER = "/etc/zpipe/pipeline.toml"
NOT_OF_KUBERNETES = "monitoring.coreos.com/v1"
"""The group of PodMonitor, which an operator brings."""


def compose(kind: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / kind / "compose.yaml").read_text())
    return read


def manifests(kind: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / kind / "kubernetes.yaml").read_text()))


def containers(kind: str) -> Iterator[dict[str, Any]]:
    for manifest in manifests(kind):
        yield from manifest["spec"].get("template", {}).get("spec", {}).get("containers", ())


def of_kind(kind: str, what: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests(kind) if manifest["kind"] == what]


def commands(kind: str) -> Iterator[list[str]]:
    """What follows `zpipe` in each container, and in each probe."""
    for service in compose(kind)["services"].values():
        if "command" in service:
            yield service["command"]
    for container in containers(kind):
        yield container["args"]
        for probe in ("startupProbe", "readinessProbe"):
            if words := container.get(probe, {}).get("exec", {}).get("command"):
                assert words[0] == "zpipe"
                yield words[1:]
    for words in re.findall(r"^(?:HEALTHCHECK .*)?CMD (\[.*\])$", (FOLDER / "Containerfile").read_text(), re.M):
        if kind == "pipeline":
            yield [word for word in json.loads(words) if word != "zpipe"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_compose_files_are_valid(kind: str) -> None:
    options = compose_spec.PyOptions(apply_merge=True)
    options.from_yaml((FOLDER / kind / "compose.yaml").read_text()).validate()


def test_manifests_are_valid(kind: str) -> None:
    for manifest in manifests(kind):
        if manifest["apiVersion"] != NOT_OF_KUBERNETES:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_commands_are_those_of_zpipe(kind: str) -> None:
    for words in commands(kind):
        given = [
            word.replace("$(INSTANCE)", "1").replace(IN_CONTAINER, str(FOLDER / kind / "pipeline.toml"))
            for word in words
        ]
        with group.make_context("zpipe", list(given)) as context:
            if given:
                name, command, rest = group.resolve_command(context, given)
                assert command is not None, words
                command.make_context(name, rest, parent=context).close()


def test_every_instance_has_a_container_a_host_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name leads to the others: pod -> host -> address -> Service or alias -> port."""
    text = (FOLDER / "stages/pipeline.toml").read_text()
    (tmp_path / "squares.py").write_text((FOLDER / "stages/squares.py").read_text())
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    keys = "".join(f'{host} = "{new_pair().public}"\n' for host in config_hosts(text))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/trusted.toml").write_text(keys)
    monkeypatch.setenv("ZPIPE_KEYS_DIR", str(tmp_path / "keys"))
    listed = CliRunner().invoke(group, ["check", str(path)])
    assert listed.exit_code == 0, listed.output
    found = re.findall(r"(\w+)\.(\d) on (\S+), tcp (\d+)-", listed.output)
    assert len(found) == 4
    services = compose("stages")["services"]
    assert services.keys() - {host for _, _, host, _ in found} == {"monitor"}
    by_name = {manifest["metadata"]["name"]: manifest for manifest in of_kind("stages", "StatefulSet")}
    headless = {manifest["metadata"]["name"]: manifest for manifest in of_kind("stages", "Service")}
    pods = {
        f"{name}-{ordinal + one['spec']['ordinals']['start']}"
        for name, one in by_name.items()
        for ordinal in range(one["spec"]["replicas"])
    }
    assert pods == {host for _, _, host, _ in found}
    for stage, number, host, port in found:
        assert f'{host} = {{ address = "{host}.{stage}" }}' in text
        service = services[host]
        assert service["command"][-1] == f"{stage}.{number}"
        assert service["environment"] == {"ZPIPE_HOST": host}
        assert service["secrets"] == [f"{host}.key"]
        assert service["networks"]["default"]["aliases"] == [f"{host}.{stage}"]
        stateful = by_name[stage]["spec"]
        assert stateful["serviceName"] == stage and headless[stage]["spec"]["clusterIP"] == "None"
        assert [one["port"] for one in headless[stage]["spec"]["ports"]] == [int(port)]
        [container] = stateful["template"]["spec"]["containers"]
        assert container["args"][-1] == f"{stage}.$(INSTANCE)"


def config_hosts(text: str) -> list[str]:
    return re.findall(r"^(\S+) = \{.*\}$", text.partition("[hosts]")[2].partition("[stages")[0], re.M)


def test_selectors_find_their_pods_and_ports(kind: str) -> None:
    pods = [manifest["spec"]["template"] for manifest in manifests(kind) if "template" in manifest["spec"]]
    for manifest in (*of_kind(kind, "Service"), *of_kind(kind, "PodMonitor")):
        selector = manifest["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        matching = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        assert len(matching) == 1, manifest["metadata"]["name"]
        ports = {port["name"] for one in matching[0]["spec"]["containers"] for port in one.get("ports", ())}
        for port in manifest["spec"].get("ports", ()):
            assert port["name"] in ports
        for endpoint in manifest["spec"].get("podMetricsEndpoints", ()):
            assert endpoint["port"] in ports


def test_no_container_has_rights(kind: str) -> None:
    for service in compose(kind)["services"].values():
        assert service["read_only"] and service["tmpfs"] == ["/tmp"]
    for container in containers(kind):
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_both_pipelines_are_the_same_but_for_their_hosts() -> None:
    assert (FOLDER / "pipeline/squares.py").read_bytes() == (FOLDER / "stages/squares.py").read_bytes()
    one = config.load(FOLDER / "pipeline/pipeline.toml")
    assert list(one.stages) == ["read", "square", "store"]


def test_the_image_is_built_from_what_the_ignore_file_lets_through() -> None:
    let_through = set(re.findall(r"^!(\S+)$", (FOLDER / "Containerfile.dockerignore").read_text(), re.M))
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", (FOLDER / "Containerfile").read_text(), re.M)
        for word in line.split()[:-1]
    }
    assert copied == let_through
