"""Decides which IP addresses are public, by IANA's registries, independently of the Python version.

``ipaddress.is_global`` differs between Python 3.11.2 and 3.13, and calls addresses public that are of no public host:
deprecated site-local ones, reserved blocks, and IPv6 addresses that carry a private IPv4 address.

Sources, as of 2025-10:
https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
https://www.iana.org/assignments/ipv6-address-space
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

NOT_PUBLIC_IPV4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # shared address space of providers (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link local, where clouds keep their metadata (RFC 3927)
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # IETF protocol assignments, the anycast addresses of one's own gateway included (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # relays of 6to4, deprecated (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and the limited broadcast (RFC 1112, RFC 919)
    )
)
GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 addresses given to public hosts (RFC 4291): no loopback, unique-local, link-local,
site-local, multicast, IPv4-compatible, discard-only (100::/64), SRv6 (5f00::/16) or reserved one is among them."""
NOT_PUBLIC_IPV6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID and others (RFC 2928)
        "2001:db8::/32",  # documentation (RFC 3849)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
MAPPED = IPv6Network("::ffff:0:0/96")
"""The last 32 bits are an IPv4 address, and that is what is connected to (RFC 4291)."""
NAT64 = IPv6Network("64:ff9b::/96")
"""A translator connects to the IPv4 address in the last 32 bits (RFC 6052). Its sibling for local use,
64:ff9b:1::/48 (RFC 8215), is public nowhere."""
SIX_TO_FOUR = IPv6Network("2002::/16")
"""The 32 bits that follow are the IPv4 address of a router (RFC 3056)."""
ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an address whose last quarter is the IPv4 address of a host (RFC 5214)."""


def is_public(address: Address) -> bool:
    """Return whether an address is one of the open internet, and so is any IPv4 address that it carries."""
    if isinstance(address, IPv4Address):
        return not any(address in block for block in NOT_PUBLIC_IPV4)
    if not all(is_public(carried) for carried in _carried(address)):
        return False
    if address in MAPPED or address in NAT64:
        return True
    return address in GLOBAL_UNICAST and not any(address in block for block in NOT_PUBLIC_IPV6)


def _carried(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that packets to this address may end at."""
    value = int(address)
    if address in MAPPED or address in NAT64 or (value >> 32) & 0xFFFFFFFF in ISATAP:
        yield IPv4Address(value & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        yield IPv4Address((value >> 80) & 0xFFFFFFFF)
