"""The environment that points AWS tools and local proxies to a running service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .config import Endpoints
from .identity.key_store import ACCESS_KEY_VARIABLE, SECRET_KEY_VARIABLE
from .tls.ca_bundle import write_bundle

__all__ = ["VARIABLES", "client_environment"]

VARIABLES: Final = (
    "AWS_ENDPOINT_URL_IOTSECURETUNNELING",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_CA_BUNDLE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWSIOT_TUNNEL_ENDPOINT",
    "SSL_CERT_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""All that :func:`client_environment` may return."""


def client_environment(
    endpoints: Endpoints, state_dir: Path, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables for clients of a service, with its own key where that is known.

    A key that the service was given is in ``environment``, or nowhere. The certificates that the
    variables name are written to the state directory.

    Raises:
        ConfigurationError: the certificates cannot be read or written.
    """
    bundle = state_dir / "tls" / "bundle.pem"
    write_bundle(bundle, Path(endpoints.ca_file))
    return _places(endpoints, bundle) | _credentials(endpoints, environment)


def _places(endpoints: Endpoints, bundle: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        # Or the line above would not count, and calls would go to AWS.
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_REGION": endpoints.region,
        "AWS_DEFAULT_REGION": endpoints.region,
        "AWSIOT_TUNNEL_ENDPOINT": endpoints.data_endpoint,
        "SSL_CERT_FILE": str(bundle),
    }


def _credentials(endpoints: Endpoints, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the service's own key; one that it was given is only in environments."""
    secret = endpoints.secret_access_key
    if not secret and environment.get(ACCESS_KEY_VARIABLE) == endpoints.access_key_id:
        secret = environment.get(SECRET_KEY_VARIABLE, "")
    if not secret:
        return {}
    return {"AWS_ACCESS_KEY_ID": endpoints.access_key_id, "AWS_SECRET_ACCESS_KEY": secret}
