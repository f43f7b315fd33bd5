# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a drill is apart from everything else: its compose file before anything is made, and what Docker has made of it.

This knows nothing of how the file was built. What it does not know is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ansible_collections.odkops.central.plugins.module_utils._drill_compose import (
    BINDS,
    FIRST,
    S3_PORT,
    THEN,
    mount_source,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import COMPOSE_LABEL, Docker
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

_SERVICE_KEYS = frozenset(
    (
        *(
            "image",
            "pull_policy",
            "restart",
            "networks",
            "dns",
            "extra_hosts",
            "labels",
            "cpus",
            "cpu_shares",
            "mem_limit",
            "oom_score_adj",
        ),
        *("logging", "environment", "volumes", "command", "shm_size"),
    )
)
_SECRET_NAME = re.compile(r"KEY|SECRET|PASS|TOKEN|DSN|CREDENTIAL", re.IGNORECASE)
# Shorter ones are no secrets but words such as "odk" and "true".
_SHORTEST_SECRET = 8
_OWN_HOSTS = ("postgres14",)
_LOOPBACK = ("127.0.0.1",)


def _not_apart(why: str) -> NoReturn:
    raise CentralError(
        "drill_not_isolated",
        f"The drill was given up, and removed, since it would not be apart from everything else: {why}.",
    )


def _digest(value: str) -> str:
    # In what Docker Compose says, and in what is written for it, each dollar sign is two.
    return hashlib.sha256(value.replace("$$", "$").encode()).hexdigest()


@dataclass
class Production:
    """What a drill must have nothing of: the Central of the checkout, as it is configured and as it runs here."""

    project: str
    #: names in Docker, not in the compose file
    volumes: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    #: SHA-256 of each value that is, or may be, a secret
    secrets: set[str] = field(default_factory=set)
    #: host and port of what its ``service`` reaches: database, S3, mail, OpenID Connect
    servers: list[tuple[str, int]] = field(default_factory=list)
    #: PostgreSQL's numbers of its cluster
    systems: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, source: Mapping[str, Any], identity: Mapping[str, Any], docker: Docker) -> Production:
        """Learn what there is to keep away from.

        :param source: what ``docker compose config`` says of the checkout
        :param identity: of the Central in the set's manifest
        :raises CentralError: as :meth:`Docker.run`
        """
        found = cls(str(source.get("name") or ""))
        for name, volume in (source.get("volumes") or {}).items():
            found.volumes.add((volume or {}).get("name") or f"{found.project}_{name}")
        for name, network in (source.get("networks") or {}).items():
            found.networks.add((network or {}).get("name") or f"{found.project}_{name}")
        for service in (source.get("services") or {}).values():
            found.take_environment(service.get("environment") or {})
        found.take_server(str(identity.get("database_host") or ""), str(identity.get("database_port") or "5432"))
        if identity.get("database_system"):
            found.systems.add(str(identity["database_system"]))
        containers = docker.labelled("container", f"{COMPOSE_LABEL}={found.project}")
        made = {each["Id"]: each for each in docker.inspect("container", *containers)}
        images = {
            each["Id"]: each for each in docker.inspect("image", *sorted({each["Image"] for each in made.values()}))
        }
        for each in made.values():
            # What anybody's container of that image has is no secret.
            public = set((images[each["Image"]]["Config"] or {}).get("Env") or ())
            own = set(each["Config"].get("Env") or ()) - public
            found.take_environment(dict(line.partition("=")[::2] for line in own))
            found.volumes.update(mount["Name"] for mount in each.get("Mounts") or () if mount.get("Name"))
            for network, details in ((each.get("NetworkSettings") or {}).get("Networks") or {}).items():
                if network not in ("none", "host"):
                    found.networks.add(network)
                found.take_ports(each, str((details or {}).get("IPAddress") or ""))
        return found

    def take_environment(self, environment: Mapping[str, Any]) -> None:
        """Note the secrets and the servers of a container's environment."""
        given = {name: str(value) for name, value in environment.items() if value is not None}
        for name, value in given.items():
            if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
                self.secrets.add(_digest(value))
            if value.startswith(("http://", "https://")):
                address = urlsplit(value)
                with_port = address.port if address.netloc.rpartition(":")[2].isdigit() else None
                self.take_server(address.hostname or "", str(with_port or (443 if address.scheme == "https" else 80)))
        self.take_server(given.get("PGHOST") or given.get("DB_HOST") or "", given.get("PGPORT") or "5432")
        self.take_server(given.get("EMAIL_HOST", ""), given.get("EMAIL_PORT") or "25")

    def take_server(self, host: str, port: str) -> None:
        """Note a server, unless it is named as one of the drill's own services."""
        known = host in (*FIRST, *THEN, *_LOOPBACK, "localhost", "") or host.startswith("/")
        if not known and port.isdigit() and (host, int(port)) not in self.servers:
            self.servers.append((host, int(port)))

    def take_ports(self, container: Mapping[str, Any], address: str) -> None:
        """Note where a running container answers."""
        if address:
            for exposed in container["Config"].get("ExposedPorts") or ():
                self.take_server(address, exposed.partition("/")[0])

    def has_secret(self, value: str) -> bool:
        """Whether a value is, or holds, one of its secrets."""
        return any(_digest(word) in self.secrets for word in {value, *re.split(r"[\s=@:/?&,;\"']+", value)} if word)


# --- before -----------------------------------------------------------------------------------------------------


def require_apart(document: Mapping[str, Any], production: Production, directory: str, checkout: Iterable[str]) -> None:
    """Refuse a compose file that is not that of a Central by itself.

    :param document: the file that was built
    :param directory: the drill's working directory
    :param checkout: paths of files of the checkout that it may read
    :raises CentralError: ``drill_not_isolated``
    """
    if set(document) != {"name", "services", "volumes", "networks"}:
        _not_apart("its compose file has parts that are not known")
    if document["name"] == production.project:
        _not_apart(f"it would be the compose project {production.project}")
    for name, network in document["networks"].items():
        if (
            network.get("internal") is not True
            or network.get("external")
            or "name" in network
            or network.get("enable_ipv6")
        ):
            _not_apart(f"its network {name} leads out")
        if f"{document['name']}_{name}" in production.networks:
            _not_apart(f"its network {name} is the Central's")
    for name, volume in document["volumes"].items():
        if set(volume) - {"labels"} or f"{document['name']}_{name}" in production.volumes:
            _not_apart(f"its volume {name} is not its own")
    for name, service in document["services"].items():
        _check_service(name, service, document, directory, set(checkout))
    for value in _texts(document):
        if production.has_secret(value):
            _not_apart("one of the Central's own secrets is in its compose file")


def _check_service(
    name: str, service: Mapping[str, Any], document: Mapping[str, Any], directory: str, checkout: set[str]
) -> None:
    if name not in FIRST + THEN or set(service) - _SERVICE_KEYS:
        _not_apart(f"its service {name} has what no drill has: {', '.join(sorted(set(service) - _SERVICE_KEYS))}")
    if not str(service["image"]).startswith("sha256:") or service.get("pull_policy") != "never":
        _not_apart(f"the image of {name} is not fixed")
    if service.get("restart") != "no" or service.get("dns") != ["127.0.0.1"]:
        _not_apart(f"{name} would be started again, or ask for names outside")
    if set(service["networks"]) - set(document["networks"]):
        _not_apart(f"{name} is in a network that is not the drill's")
    for mount in service["volumes"]:
        source = mount_source(mount)
        if mount["type"] == "volume":
            if source not in document["volumes"]:
                _not_apart(f"{name} has a volume that is not the drill's")
        elif mount["type"] != "bind" or mount.get("read_only") is not True:
            _not_apart(f"{name} could write to {source}")
        elif not source.startswith(f"{directory}/") and (source not in checkout or mount["target"] not in BINDS[name]):
            _not_apart(f"{name} reads {source}")
    _check_environment(name, service["environment"])


def _check_environment(name: str, environment: Mapping[str, str]) -> None:
    if name == "service":
        if environment.get("PGHOST") not in _OWN_HOSTS or environment.get("DB_HOST") not in _OWN_HOSTS:
            _not_apart("its service would use another database")
        if {"PGSERVICE", "PGHOSTADDR", "PGSERVICEFILE", "PGPASSFILE", "DATABASE_URL"} & set(environment):
            _not_apart("its service could be led to another database")
        if environment.get("OIDC_ENABLED") != "false" or environment.get("EMAIL_HOST") not in _LOOPBACK:
            _not_apart("its service would send mail, or ask others who somebody is")
    if environment.get("S3_SERVER", "") not in ("", f"http://127.0.0.1:{S3_PORT}"):
        _not_apart(f"{name} would use another S3 server")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


# --- once it is there -----------------------------------------------------------------------------------------------


def require_apart_in_docker(docker: Docker, project: str, production: Production) -> dict[str, int]:
    """Refuse a stack that Docker has made otherwise than was said.

    :returns: ``containers``, ``volumes``, ``networks`` of the drill, ``compared`` (digests of secrets)
    :raises CentralError: ``drill_not_isolated``, and as :meth:`Docker.run`
    """
    label = f"{COMPOSE_LABEL}={project}"
    volumes = set(docker.labelled("volume", label))
    networks = {each["Name"]: each for each in docker.inspect("network", *docker.labelled("network", label))}
    for name, network in networks.items():
        if network.get("Internal") is not True:
            _not_apart(f"the network {name} is not internal")
        if network.get("EnableIPv6"):
            _not_apart(f"the network {name} has IPv6, by which the host can be reached")
    if volumes & production.volumes or set(networks) & production.networks:
        _not_apart("it shares a volume or a network with the Central")
    containers = docker.inspect("container", *docker.labelled("container", label))
    for each in containers:
        _check_container(each, volumes, set(networks), production)
    for network in networks.values():
        strange = set(network.get("Containers") or {}) - {each["Id"] for each in containers}
        if strange:
            _not_apart(f"{len(strange)} other containers are in its network")
    return {
        "containers": len(containers),
        "volumes": len(volumes),
        "networks": len(networks),
        "compared": len(production.secrets),
    }


def _check_container(
    container: Mapping[str, Any], volumes: set[str], networks: set[str], production: Production
) -> None:
    name, host = str(container["Name"]).lstrip("/"), container["HostConfig"]
    if host.get("PortBindings") or (container["NetworkSettings"].get("Ports") and _published(container)):
        _not_apart(f"{name} has published ports")
    if host.get("Privileged") or host.get("PidMode") or host.get("IpcMode") == "host" or host.get("Devices"):
        _not_apart(f"{name} has more rights than a container of Central's")
    if str(host.get("NetworkMode")) not in networks and not str(host.get("NetworkMode")).startswith("container:"):
        _not_apart(f"{name} is in the network {host.get('NetworkMode')}")
    if set(container["NetworkSettings"].get("Networks") or {}) - networks:
        _not_apart(f"{name} is in a network that is not the drill's")
    if (host.get("RestartPolicy") or {}).get("Name") not in ("no", "", None):
        _not_apart(f"{name} would be started again by Docker")
    for mount in container.get("Mounts") or ():
        if mount["Type"] == "volume":
            anonymous = re.fullmatch(r"[0-9a-f]{64}", mount["Name"])
            if mount["Name"] not in volumes and (not anonymous or mount["Name"] in production.volumes):
                _not_apart(f"{name} has the volume {mount['Name']}")
        elif mount["Type"] != "tmpfs" and mount.get("RW"):
            _not_apart(f"{name} could write to {mount.get('Source')}")
    for line in container["Config"].get("Env") or ():
        variable, _equals, value = line.partition("=")
        if value and _digest(value) in production.secrets:
            _not_apart(f"{name} has the Central's own {variable}")


def _published(container: Mapping[str, Any]) -> bool:
    return any(container["NetworkSettings"]["Ports"].values())


def render(document: Mapping[str, Any]) -> bytes:
    """The compose file as it is written: JSON, which is YAML."""
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
