"""Certificates made with openssl: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder; `ca` is its PEM file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._serial = 100
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", "-x509", *curve, "-keyout", str(self._key), "-out", str(self.ca), "-subj", "/CN=test authority")

    def issue(self, name: str, certificate: Path, key: Path) -> int:
        """A certificate for 127.0.0.1 with that common name; returns its serial number."""
        self._serial += 1
        request = self.folder / "request.pem"
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        fresh = key.with_name(key.name + ".new")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", *curve, "-keyout", str(fresh), "-out", str(request), "-subj", f"/CN={name}")
        signed = certificate.with_name(certificate.name + ".new")
        by = ["-CA", str(self.ca), "-CAkey", str(self._key), "-set_serial", str(self._serial), "-days", "2"]
        _openssl("x509", "-req", "-in", str(request), *by, "-extfile", str(extensions), "-out", str(signed))
        fresh.replace(key)
        signed.replace(certificate)
        return self._serial
