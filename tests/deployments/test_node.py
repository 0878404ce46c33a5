from __future__ import annotations

import ipaddress

import pytest

from deployments.node import advertised


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.7", "trimtab.example.org"])
def test_an_address_is_told_as_it_is(host: str) -> None:
    assert advertised(host) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_everywhere_is_told_as_an_address_of_the_machine(host: str) -> None:
    told = advertised(host)
    assert told is not None
    assert not ipaddress.ip_address(told).is_unspecified
