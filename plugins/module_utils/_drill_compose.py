# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compose file of a drill: a Central that has all it needs in itself, and reaches nothing else.

It is made, not changed. Of the checkout's own configuration it takes the images of services that are known, and where their
read-only files lie; every other value is one of this file or was made for this drill. What a later Central or an
administrator adds is therefore not there, and a drill that needs it fails, instead of reaching out.

Source: getodk/central, docker-compose.yml, files/service/config.json.template, files/nginx and files/enketo, v2023.2 to v2026.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: on containers, volumes and networks: the drill's id, and its working directory
LABEL, DIRECTORY_LABEL = "org.odkops.drill", "org.odkops.drill.directory"

#: what a drill starts before the restore, and what the restore starts
FIRST = ("secrets", "enketo_redis_main", "enketo_redis_cache", "postgres14", "pyxform")
THEN = ("service", "enketo", "nginx")
#: older Centrals may lack it, and no check needs it
_OPTIONAL = ("pyxform",)

USER = DATABASE = "odk"
#: where rclone serves the pool, in the network namespace of ``service``
S3_PORT = 19000
S3_BUCKET = "drill"
#: the domain of no organization: nginx does not start unless it resolves
_SENTRY = "drill.ingest.sentry.io"

#: directories and files in the working directory
TLS, DH, CA, CRONTAB, COMPOSE = "tls", "dh", "ca.pem", "crontab", "docker-compose.yml"

#: by service: where in the container read-only files of the checkout are, as stock Centrals have them
BINDS = {
    "nginx": (
        "/usr/share/odk/nginx/odk.conf.template",
        "/usr/share/odk/nginx/client-config.json.template",
    ),
    "enketo_redis_main": ("/usr/local/etc/redis/redis.conf",),
    "enketo_redis_cache": ("/usr/local/etc/redis/redis.conf",),
}

_VOLUMES: dict[str, tuple[tuple[str, str], ...]] = {
    "postgres14": (("postgres14", "/var/lib/odk/postgresql/14"),),
    "service": (("secrets", "/etc/secrets"),),
    "secrets": (("secrets", "/etc/secrets"),),
    "enketo": (("secrets", "/etc/secrets"),),
    "enketo_redis_main": (("enketo_redis_main", "/data"),),
    "enketo_redis_cache": (("enketo_redis_cache", "/data"),),
}

_REDIS = ["redis-server", "/usr/local/etc/redis/redis.conf"]


@dataclass(frozen=True)
class StackPlan:
    """What a drill's Central is to be.

    :param drill_id: as in its record
    :param project: name of the compose project
    :param directory: absolute path of the working directory
    :param domain: DOMAIN, that of the set
    :param images: ids of the images by service
    :param password: of the drill's own database user
    :param s3: access key and secret key for the objects of the pool; None where the database names none
    :param cpus: that one container may use at most
    :param memory: bytes that one container may use at most
    """

    drill_id: str
    project: str
    directory: str
    domain: str
    images: Mapping[str, str]
    password: str = field(repr=False)
    s3: tuple[str, str] | None = field(repr=False, default=None)
    cpus: float = 1.0
    memory: int = 2 * 1024**3


def required_images(source: Mapping[str, Any]) -> dict[str, list[str]]:
    """By service of a drill, the names that its image may have, the likeliest first.

    :param source: what ``docker compose config`` says of the checkout
    :raises CentralError: ``drill_impossible``
    """
    services, project = source.get("services") or {}, source.get("name") or ""
    found = {}
    for name in FIRST + THEN:
        service = services.get(name)
        if service is None:
            if name in _OPTIONAL:
                continue
            raise CentralError(
                "drill_impossible",
                f"The checkout has no service {name}: it is no Central from v2023.2 on. Name another checkout.",
            )
        image = service.get("image")
        found[name] = [image] if image else [f"{project}-{name}", f"{project}_{name}"]
    return found


def build(source: Mapping[str, Any], plan: StackPlan) -> dict[str, Any]:
    """Return the compose file of a drill.

    :param source: what ``docker compose config`` says of the checkout
    """
    labels = {LABEL: plan.drill_id, DIRECTORY_LABEL: plan.directory}
    volumes = sorted({name for of in _VOLUMES.values() for name, _path in of})
    document = {
        "name": plan.project,
        "services": {
            name: _service(name, source["services"][name], plan, labels) for name in FIRST + THEN if name in plan.images
        },
        "volumes": {name: {"labels": labels} for name in volumes},
        "networks": {
            "default": {
                "internal": True,
                # A daemon may make it so by default, and the host would have an address of that kind.
                "enable_ipv6": False,
                # The host has no address in it, so that nothing that listens there can be reached.
                "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"},
                "labels": labels,
            }
        },
    }
    escaped: dict[str, Any] = _escape(document)
    return escaped


def _service(name: str, source: Mapping[str, Any], plan: StackPlan, labels: Mapping[str, str]) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [
        {"type": "volume", "source": volume, "target": path} for volume, path in _VOLUMES.get(name, ())
    ]
    mounts += _files(name, source, plan)
    aliases = {"default": {"aliases": [plan.domain]}} if name == "nginx" else {"default": {}}
    service: dict[str, Any] = {
        "image": plan.images[name],
        "pull_policy": "never",
        "restart": "no",
        "networks": aliases,
        # Names of services are known to Docker itself. No others are asked for outside.
        "dns": ["127.0.0.1"],
        "extra_hosts": [f"{_SENTRY}:127.0.0.1"],
        "labels": dict(labels),
        "cpus": plan.cpus,
        # A quarter of what others get when there is not enough for all.
        "cpu_shares": 256,
        "mem_limit": plan.memory,
        # Where memory runs out, the kernel takes one of these before any other process.
        "oom_score_adj": 500,
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "2"}},
        "environment": _environment(name, plan),
        "volumes": mounts,
    }
    command = _command(name, source)
    if command:
        service["command"] = command
    if name == "postgres14":
        service["shm_size"] = 512 * 1024**2
    return service


def mount_source(mount: Mapping[str, Any]) -> str:
    """What is mounted, as it is called on the host: in a compose file each dollar sign is two."""
    return str(mount.get("source", "")).replace("$$", "$")


def _files(name: str, source: Mapping[str, Any], plan: StackPlan) -> list[dict[str, Any]]:
    """Files of the checkout that stock binds, and those that were made for the drill. All of them read-only."""
    binds = []
    for mount in source.get("volumes") or ():
        if mount.get("type") == "bind" and mount.get("target") in BINDS.get(name, ()):
            binds.append((mount_source(mount), mount["target"]))
    own = {
        "service": ((CRONTAB, "/etc/cron.d/odk"),),
        "enketo": ((CA, "/usr/local/share/odkops-drill-ca.pem"),),
        "nginx": ((TLS, "/etc/customssl/live/local"), (DH, "/etc/dh")),
    }
    binds += [(os.path.join(plan.directory, path), target) for path, target in own.get(name, ())]
    return [
        {
            "type": "bind",
            "source": path,
            "target": target,
            "read_only": True,
            "bind": {"create_host_path": False},
        }
        for path, target in binds
    ]


def _command(name: str, source: Mapping[str, Any]) -> list[str]:
    if name in ("enketo_redis_main", "enketo_redis_cache"):
        return _REDIS
    if name == "secrets":
        return ["./generate-secrets.sh"]
    if name == "service":
        # Before v2026.1 it begins by waiting for the database, whose name is in the command.
        given = source.get("command") or []
        waits = bool(given) and os.path.basename(str(given[0])) in ("wait-for-it", "wait-for-it.sh")
        return [*([str(given[0]), "postgres14:5432", "--"] if waits else []), "./start-odk.sh"]
    return []


def _environment(name: str, plan: StackPlan) -> dict[str, str]:
    if name == "postgres14":
        return {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": plan.password, "POSTGRES_DB": DATABASE}
    if name == "enketo":
        return {
            "DOMAIN": plan.domain,
            "HTTPS_PORT": "443",
            "SUPPORT_EMAIL": "drill@drill.invalid",
            "NODE_EXTRA_CA_CERTS": "/usr/local/share/odkops-drill-ca.pem",
        }
    if name == "nginx":
        return {
            "DOMAIN": plan.domain,
            "CERTBOT_EMAIL": "drill@drill.invalid",
            "SSL_TYPE": "customssl",
            "OIDC_ENABLED": "false",
            **_SENTRY_SETTINGS,
        }
    return _service_environment(plan) if name == "service" else {}


_SENTRY_SETTINGS = {
    "SENTRY_ORG_SUBDOMAIN": _SENTRY.split(".", 1)[0],
    "SENTRY_KEY": "0" * 32,
    "SENTRY_PROJECT": "1",
}


def _service_environment(plan: StackPlan) -> dict[str, str]:
    """All variables that the service of any Central wants to have, and no others."""
    access_key, secret_key = plan.s3 or ("", "")
    return {
        "DOMAIN": plan.domain,
        "HTTPS_PORT": "443",
        "SYSADMIN_EMAIL": "drill@drill.invalid",
        "NODE_OPTIONS": "",
        "PGHOST": "postgres14",
        "PGPORT": "5432",
        "PGDATABASE": DATABASE,
        "PGUSER": USER,
        "PGPASSWORD": plan.password,
        "PGAPPNAME": "odkops-drill",
        "DB_HOST": "postgres14",
        "DB_NAME": DATABASE,
        "DB_USER": USER,
        "DB_PASSWORD": plan.password,
        "DB_SSL": "null",
        "DB_POOL_SIZE": "10",
        # Nobody listens there.
        "EMAIL_FROM": "drill@drill.invalid",
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_PORT": "25",
        "EMAIL_SECURE": "false",
        "EMAIL_IGNORE_TLS": "true",
        "EMAIL_USER": "",
        "EMAIL_PASSWORD": "",
        "OIDC_ENABLED": "false",
        "OIDC_ISSUER_URL": "",
        "OIDC_CLIENT_ID": "",
        "OIDC_CLIENT_SECRET": "",
        **_SENTRY_SETTINGS,
        "SENTRY_TRACE_RATE": "0",
        "S3_SERVER": f"http://127.0.0.1:{S3_PORT}" if plan.s3 else "",
        "S3_BUCKET_NAME": S3_BUCKET if plan.s3 else "",
        "S3_ACCESS_KEY": access_key,
        "S3_SECRET_KEY": secret_key,
        "SESSION_LIFETIME": "86400",
    }


def _escape(value: Any) -> Any:
    """No text of it is a template of Docker Compose's."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escape(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
