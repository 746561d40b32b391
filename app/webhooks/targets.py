"""Where a webhook may go: public addresses only, so that no endpoint makes a server call on its own network."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from httpx import URL, InvalidURL

from app.kit.text import BadText, check_text
from app.webhooks.model import URL_LENGTH_MAX

HTTPS_PORTS = frozenset({443, 8443})
FREE_PORT_MIN = 1024
PORT_MAX = 65_535
# What ends in a number is an address to whoever connects, in one of many spellings: 2130706433, 127.1, 0x7f.1.
NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
PORTS = {"https": 443, "http": 80}
LOCAL_NAMES = ("localhost", ".localhost")

# Beside what `ipaddress` knows as not global; some of it only in newer Pythons.
NEVER = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # carriers' networks, and the metadata of some clouds
        "168.63.129.16/32",  # Azure's wire server, on a public address
        "192.0.0.0/24",  # protocol assignments, and the metadata of Oracle's cloud
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "3fff::/20",
    )
)
UNICAST = ip_network("2000::/3")  # all that IPv6 has given out
TRANSLATED = ip_network("64:ff9b::/96")


class BadTarget(ValueError):
    """A URL that nothing is sent to; the message says why."""


def check(url: str, *, private: bool) -> URL:
    """The parts of a URL that webhooks may go to; with `private` also http, any port and any address.

    What its name leads to is only known, and checked, when something is sent.
    """
    try:
        check_text(url, length_max=URL_LENGTH_MAX)
        parts = URL(url)
        # What is sent spells the name as people do.
        _ = parts.host
    except (BadText, InvalidURL, UnicodeError) as error:
        raise BadTarget(f"that is no URL: {error}") from None
    if not (is_address(host_of(parts)) or NAME.fullmatch(host_of(parts))):
        raise BadTarget("write the whole URL, such as https://example.com/webhooks")
    if not is_address(host_of(parts)) and NUMBER.fullmatch(host_of(parts)):
        raise BadTarget("write an address as four numbers between 0 and 255, or in square brackets")
    if parts.userinfo:
        raise BadTarget("a URL must not hold a user name or a password: everybody who reads may see it")
    if parts.fragment:
        raise BadTarget("a URL must not have a fragment: it is never sent")
    check_parts(parts, private=private)
    return parts


def check_parts(parts: URL, *, private: bool) -> None:
    """Refuse a scheme, a port or an address that nothing is sent to."""
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise BadTarget("webhooks go over https only")
    port = port_of(parts)
    if not 0 < port <= PORT_MAX:
        raise BadTarget(f"the port is between 1 and {PORT_MAX}")
    if private:
        return
    if port not in HTTPS_PORTS and port < FREE_PORT_MIN:
        raise BadTarget("the port is 443, 8443 or at least 1024")
    host = host_of(parts).rstrip(".")
    if host == LOCAL_NAMES[0] or host.endswith(LOCAL_NAMES[1]) or (is_address(host) and not is_public(host)):
        raise BadTarget("webhooks go to public addresses only")


def port_of(parts: URL) -> int:
    """The port, also where the URL leaves it out."""
    return PORTS[parts.scheme] if parts.port is None else parts.port


def host_of(parts: URL) -> str:
    """The name as the DNS knows it, or the address."""
    return parts.raw_host.decode("ascii")


def is_address(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(text: str) -> bool:
    """Whether an address is one of the Internet's: not private, loopback, link-local, reserved, multicast."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _inside(address)
        if inner is not None:
            return is_public(str(inner))
        if address not in UNICAST:
            return False
    special = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    return address.is_global and not special and not any(address in network for network in NEVER)


def _inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for on the way."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in TRANSLATED else None
