# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The compose file of a drill has nothing of the Central's, and the guard refuses each way in which it could."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import (
    FIRST,
    THEN,
    StackPlan,
    build,
    required_images,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_guard import (
    Production,
    require_apart,
    require_apart_in_docker,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

DIRECTORY = "/var/lib/odkops-drill/central-0a1b2c"
CHECKOUT = "/root/central"
TEMPLATE = f"{CHECKOUT}/files/nginx/odk.conf.template"
CONF = f"{CHECKOUT}/files/enketo/redis-enketo-main.conf"

# What an administrator may have in .env, and in an override: nothing of it may be in a drill.
SECRETS = {
    "PGPASSWORD": "production-password-1",
    "S3_SECRET_KEY": "production-s3-secret-2",
    "OIDC_CLIENT_SECRET": "production-oidc-secret-3",
    "EMAIL_PASSWORD": "production-mail-password-4",
    "NEW_IN_2031_TOKEN": "production-new-secret-5",
}
OTHERS = {
    "DOMAIN": "central.example.org",
    "PGHOST": "db.production.example",
    "PGSERVICE": "production-service",
    "S3_SERVER": "https://s3.production.example",
    "S3_BUCKET_NAME": "production-bucket",
    "EMAIL_HOST": "mail.production.example",
    "OIDC_ISSUER_URL": "https://login.production.example:8443/realm",
    "HTTPS_PROXY": "http://proxy.production.example:3128",
}


def source(**service: Any) -> dict[str, Any]:
    """As ``docker compose config --format json`` gives it, of a Central of v2025 with a database of its own."""
    plain: dict[str, Any] = {"environment": {}, "volumes": [], "networks": {"default": None}}
    services: dict[str, Any] = {name: copy.deepcopy(plain) for name in (*FIRST, *THEN, "mail", "s3", "backdoor")}
    services["service"].update(
        environment={**OTHERS, **SECRETS},
        command=["wait-for-it", "db.production.example:5432", "--", "./start-odk.sh"],
        volumes=[{"type": "bind", "source": "/data/transfer", "target": "/data/transfer"}],
        ports=[{"target": 8383, "published": "8383"}],
        networks={"default": None, "production_net": None},
        restart="always",
        **service,
    )
    services["nginx"].update(
        image="central-nginx",
        ports=[{"target": 443, "published": "443"}],
        volumes=[{"type": "bind", "source": TEMPLATE, "target": "/usr/share/odk/nginx/odk.conf.template"}],
    )
    services["enketo_redis_main"]["volumes"] = [
        {"type": "bind", "source": CONF, "target": "/usr/local/etc/redis/redis.conf", "read_only": True}
    ]
    return {
        "name": "central",
        "services": services,
        "volumes": {"postgres14": {"name": "central_postgres14"}, "secrets": {}},
        "networks": {"default": {"name": "central_default"}, "production_net": {"external": True, "name": "office"}},
    }


def plan(**changes: Any) -> StackPlan:
    given: dict[str, Any] = {
        "drill_id": "20261123T101112Z-0a1b2c",
        "project": "odkops-drill-central-0a1b2c",
        "directory": DIRECTORY,
        "domain": "central.example.org",
        "images": dict.fromkeys(FIRST + THEN, f"sha256:{'ab' * 32}"),
        "password": "drill-password",
        "s3": ("drill-access-key", "drill-secret-key"),
    }
    return StackPlan(**{**given, **changes})


class NoDocker:
    """A host where nothing runs."""

    def labelled(self, _kind: str, _label: str) -> list[str]:
        return []

    def inspect(self, _kind: str, *_names: str) -> list[dict[str, Any]]:
        return []


def production() -> Production:
    identity = {"database_host": "10.1.2.3", "database_port": "6432", "database_system": "7000000000000000001"}
    return Production.of(source(), identity, NoDocker())  # type: ignore[arg-type]


def check(document: dict[str, Any]) -> None:
    require_apart(document, production(), DIRECTORY, [TEMPLATE, CONF])


def test_what_is_made_passes_and_has_nothing_of_the_central() -> None:
    document = build(source(), plan())
    check(document)
    text = json.dumps(document)
    for value in (
        *SECRETS.values(),
        *(each for name, each in OTHERS.items() if name != "DOMAIN"),
        "/data/transfer",
        "office",
    ):
        assert value not in text
    assert set(document["services"]) == set(FIRST + THEN)
    assert "production" not in text
    for name, service in document["services"].items():
        assert "ports" not in service, name
        assert (service["restart"], service["pull_policy"]) == ("no", "never"), name
        # Of what is on the host it comes last for the CPU, and first when there is no memory.
        assert service["cpu_shares"] < 1024, name
        assert service["oom_score_adj"] > 0, name


def test_it_is_a_central_by_itself() -> None:
    document = build(source(), plan())
    service, nginx = document["services"]["service"], document["services"]["nginx"]
    assert service["environment"]["PGHOST"] == service["environment"]["DB_HOST"] == "postgres14"
    assert service["command"] == ["wait-for-it", "postgres14:5432", "--", "./start-odk.sh"]
    assert nginx["networks"]["default"]["aliases"] == ["central.example.org"]
    assert nginx["environment"]["SSL_TYPE"] == "customssl"
    assert document["networks"] == {
        "default": {
            "internal": True,
            "enable_ipv6": False,
            "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"},
            "labels": {"org.odkops.drill": plan().drill_id, "org.odkops.drill.directory": DIRECTORY},
        }
    }
    crontab = [mount for mount in service["volumes"] if mount["target"] == "/etc/cron.d/odk"]
    assert crontab[0]["source"] == f"{DIRECTORY}/crontab"
    assert "DATABASE_URL" not in service["environment"]
    without = build(source(), plan(s3=None))["services"]["service"]["environment"]
    assert {name: without[name] for name in ("S3_SERVER", "S3_ACCESS_KEY", "S3_SECRET_KEY")} == {
        "S3_SERVER": "",
        "S3_ACCESS_KEY": "",
        "S3_SECRET_KEY": "",
    }


def test_dollar_signs_are_no_templates() -> None:
    document = build(source(), plan(directory="/srv/$HOME/x", password="a$b"))
    assert document["services"]["service"]["environment"]["PGPASSWORD"] == "a$$b"
    assert any(mount["source"] == "/srv/$$HOME/x/tls" for mount in document["services"]["nginx"]["volumes"])


def test_images_are_those_of_the_checkout() -> None:
    names = required_images(source())
    assert names["nginx"] == ["central-nginx"]
    assert names["service"] == ["central-service", "central_service"]
    assert "mail" not in names
    old = source()
    del old["services"]["postgres14"]
    with pytest.raises(CentralError) as caught:
        required_images(old)
    assert caught.value.diagnosis == "drill_impossible"
    without = source()
    del without["services"]["pyxform"]
    assert "pyxform" not in required_images(without)


def edit(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        found = document
        for name in path[:-1]:
            found = found[name]
        found[path[-1]] = value

    return change


def add_mount(name: str, **mount: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["services"][name]["volumes"].append(mount)


OVERLAPS: dict[str, Callable[[dict[str, Any]], None]] = {
    "the project": edit("name", value="central"),
    "a network that is not internal": edit("networks", "default", "internal", value=False),
    "a network with IPv6": edit("networks", "default", "enable_ipv6", value=True),
    "a network of the Central": edit("networks", "default", "name", value="central_default"),
    "an external network": edit("networks", "office", value={"external": True, "internal": True}),
    "a volume of the Central": edit("volumes", "postgres14", value={"external": True, "name": "central_postgres14"}),
    "published ports": edit("services", "nginx", "ports", value=["443:443"]),
    "a file with variables": edit("services", "service", "env_file", value=[".env"]),
    "rights": edit("services", "service", "privileged", value=True),
    "another service": edit("services", "backdoor", value={"image": "sha256:00"}),
    "an image by its name": edit("services", "service", "image", value="central-service"),
    "pulling": edit("services", "service", "pull_policy", value="missing"),
    "starting again": edit("services", "service", "restart", value="always"),
    "names asked for outside": edit("services", "service", "dns", value=["9.9.9.9"]),
    "a network that is not its own": edit("services", "service", "networks", value={"other": {}}),
    "the database": edit("services", "service", "environment", "PGHOST", value="db.production.example"),
    "the database by its old name": edit(
        "services", "service", "environment", "DB_HOST", value="db.production.example"
    ),
    "a service of libpq": edit("services", "service", "environment", "PGSERVICE", value="production"),
    "an address of libpq": edit("services", "service", "environment", "PGHOSTADDR", value="10.1.2.3"),
    "S3": edit("services", "service", "environment", "S3_SERVER", value="https://s3.production.example"),
    "mail": edit("services", "service", "environment", "EMAIL_HOST", value="mail.production.example"),
    "OpenID Connect": edit("services", "service", "environment", "OIDC_ENABLED", value="true"),
    "a secret": edit("services", "enketo", "environment", "ANY", value="production-password-1"),
    "a secret in an address": edit(
        "services", "enketo", "environment", "ANY", value="https://u:production-s3-secret-2@x/"
    ),
    "a secret in a command": edit("services", "service", "command", value=["sh", "-c", "x=production-new-secret-5"]),
    "a writable file": add_mount("nginx", type="bind", source=f"{DIRECTORY}/tls", target="/x", read_only=False),
    "a file of the host": add_mount("nginx", type="bind", source="/data/transfer", target="/x", read_only=True),
    "a file elsewhere": add_mount("nginx", type="bind", source=TEMPLATE, target="/x", read_only=True),
    "somebody's volume": add_mount("service", type="volume", source="transfer", target="/x"),
    "Docker itself": add_mount("service", type="bind", source="/var/run/docker.sock", target="/var/run/docker.sock"),
}


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_each_overlap_is_refused(overlap: str) -> None:
    document = build(source(), plan())
    OVERLAPS[overlap](document)
    with pytest.raises(CentralError) as caught:
        check(document)
    assert caught.value.diagnosis == "drill_not_isolated"
    assert not [secret for secret in SECRETS.values() if secret in caught.value.message]


def test_what_to_keep_away_from_is_known() -> None:
    found = production()
    assert {("10.1.2.3", 6432), ("db.production.example", 5432), ("s3.production.example", 443)} <= set(found.servers)
    assert ("login.production.example", 8443) in found.servers
    assert ("mail.production.example", 25) in found.servers
    assert found.volumes == {"central_postgres14", "central_secrets"}
    assert {"central_default", "office"} <= found.networks
    assert found.systems == {"7000000000000000001"}
    assert all(found.has_secret(secret) for secret in SECRETS.values())
    assert not found.has_secret("central.example.org")
    assert "production" not in repr(found.secrets)


def test_a_secret_with_a_dollar_sign_is_known_as_docker_has_it() -> None:
    # `docker compose config` says it with two.
    given = source()
    given["services"]["service"]["environment"]["PGPASSWORD"] = "pa$$word-6"
    found = Production.of(given, {}, NoDocker())  # type: ignore[arg-type]
    made = MadeByDocker()
    made.container["Config"]["Env"].append("X=pa$word-6")
    with pytest.raises(CentralError) as caught:
        require_apart_in_docker(made, "drill", found)  # type: ignore[arg-type]
    assert caught.value.diagnosis == "drill_not_isolated"


class MadeByDocker(NoDocker):
    """What Docker says of a drill with one container."""

    def __init__(self, **host: Any) -> None:
        self.container: dict[str, Any] = {
            "Id": "c1",
            "Name": "/drill-service-1",
            "Config": {"Env": ["PGHOST=postgres14"], "Labels": {}},
            "HostConfig": {"NetworkMode": "drill_default", "RestartPolicy": {"Name": "no"}, **host},
            "NetworkSettings": {"Networks": {"drill_default": {}}, "Ports": {}},
            "Mounts": [{"Type": "volume", "Name": "drill_secrets", "RW": True}],
        }
        self.network: dict[str, Any] = {"Name": "drill_default", "Internal": True, "Containers": {"c1": {}}}

    def labelled(self, kind: str, _label: str) -> list[str]:
        return {"container": ["c1"], "volume": ["drill_secrets"], "network": ["n1"]}[kind]

    def inspect(self, kind: str, *_names: str) -> list[dict[str, Any]]:
        return [self.container] if kind == "container" else [self.network]


MADE: dict[str, Callable[[MadeByDocker], object]] = {
    "IPv6": lambda made: made.network.update(EnableIPv6=True),
    "published ports": lambda made: made.container["HostConfig"].update(
        PortBindings={"443/tcp": [{"HostPort": "443"}]}
    ),
    "the host's network": lambda made: made.container["HostConfig"].update(NetworkMode="host"),
    "another network": lambda made: made.container["NetworkSettings"]["Networks"].update(central_default={}),
    "a way out": lambda made: made.network.update(Internal=False),
    "a strange container": lambda made: made.network["Containers"].update(c2={}),
    "rights": lambda made: made.container["HostConfig"].update(Privileged=True),
    "starting again": lambda made: made.container["HostConfig"].update(RestartPolicy={"Name": "always"}),
    "a volume": lambda made: made.container["Mounts"].append({"Type": "volume", "Name": "central_secrets", "RW": True}),
    "a writable file": lambda made: made.container["Mounts"].append({"Type": "bind", "Source": "/data", "RW": True}),
    "a secret": lambda made: made.container["Config"]["Env"].append("X=production-password-1"),
}


def test_what_docker_has_made_is_looked_at() -> None:
    figures = require_apart_in_docker(MadeByDocker(), "drill", production())  # type: ignore[arg-type]
    assert figures == {"containers": 1, "volumes": 1, "networks": 1, "compared": len(SECRETS)}


@pytest.mark.parametrize("overlap", MADE)
def test_each_overlap_of_what_was_made_is_refused(overlap: str) -> None:
    made = MadeByDocker()
    MADE[overlap](made)
    with pytest.raises(CentralError) as caught:
        require_apart_in_docker(made, "drill", production())  # type: ignore[arg-type]
    assert caught.value.diagnosis == "drill_not_isolated"
    assert "production-password-1" not in caught.value.message
