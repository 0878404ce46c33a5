"""TLS for servers of our own: a context from PEM files, made anew when they change."""

from __future__ import annotations

import logging
import ssl

from server.settings import TlsConfig
from server.watched import Watched
from variants.errors import ConfigError

log = logging.getLogger("trimtab.tls")


def context(config: TlsConfig) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and later; client certificates are asked for, not demanded, where there is a client CA.

    Raises ConfigError naming the file and what is wrong with it.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls: {config.certificate} and {config.key}: {_words(error)}") from error
    if config.client_ca is not None:
        try:
            made.load_verify_locations(config.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"server.tls.client_ca: {config.client_ca}: {_words(error)}") from error
        made.verify_mode = ssl.CERT_OPTIONAL
    return made


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


class Rotation:
    """Tells when the files have changed and make a context again. What cannot be used (half a rotation: the new certificate
    with the old key) is reported once and tried again at the next look."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._watched = Watched(f for f in (config.certificate, config.key, config.client_ca) if f is not None)
        self._pending = False

    def look(self) -> ssl.SSLContext | None:
        """A context of the changed files, or None when there is nothing new that works."""
        changed = self._watched.changed()
        if not changed and not self._pending:
            return None
        try:
            made = context(self._config)
        except ConfigError as error:
            if changed:
                log.error("the certificate in use stays: %s", error)
            self._pending = True
            return None
        self._pending = False
        log.info("%s: taken into use", self._config.certificate)
        return made


def common_name(certificate: object) -> str | None:
    """The subject's common name of `ssl.SSLObject.getpeercert()`, or None where there is none."""
    if not isinstance(certificate, dict):
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[-1]) if names else None
