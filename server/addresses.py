"""What an address to listen on stands for."""

import ipaddress


def is_everywhere(address: str) -> bool:
    """Whether an address to listen on stands for all interfaces."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_unspecified
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address to listen on. A name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"
