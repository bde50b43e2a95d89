"""Which addresses are public: IANA's special-purpose registries as a table, each block at both of its ends."""

from __future__ import annotations

import ipaddress

import pytest

from pipeline.inputs.addresses import is_public

SPECIAL_IPV4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.170/31", "192.0.2.0/24", "192.88.99.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    "255.255.255.255/32",
)
SPECIAL_IPV6 = (
    *("::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "200::/7", "400::/6"),
    *("2001::/23", "2001::/32", "2001:1::/32", "2001:2::/48", "2001:3::/32", "2001:10::/28", "2001:20::/28"),
    *("2001:30::/28", "2001:db8::/32", "3fff::/20", "4000::/3", "5f00::/16", "6000::/3", "8000::/3", "a000::/3"),
    *("c000::/3", "e000::/4", "f000::/5", "f800::/6", "fc00::/7", "fe00::/9", "fe80::/10", "fec0::/10", "ff00::/8"),
)
PUBLIC_IPV4 = (
    *("1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("191.255.255.255", "192.0.1.0", "192.0.3.0", "192.31.196.1", "192.52.193.1", "192.88.98.255", "192.88.100.0"),
    *("192.167.255.255", "192.169.0.0", "192.175.48.1", "198.17.255.255", "198.20.0.0", "198.51.99.255"),
    *("198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
)
PUBLIC_IPV6 = (
    *("2001:200::", "2001:4860:4860::8888", "2001:db7:ffff::", "2001:db9::", "2003::1", "2400::1", "2606:4700::1"),
    *("2620:4f:8000::1", "2a00::1", "3ffe:ffff::1", "3fff:1000::"),
)
CARRYING = {
    "mapped": lambda inner: (0xFFFF << 32) | inner,
    "NAT64": lambda inner: (0x0064FF9B << 96) | inner,
    "6to4": lambda inner: (0x2002 << 112) | (inner << 80) | 1,
    "ISATAP": lambda inner: (0x26064700 << 96) | (0x5EFE << 32) | inner,
    "ISATAP, unique": lambda inner: (0x26064700 << 96) | (0x02005EFE << 32) | inner,
}


@pytest.mark.parametrize("block", [*SPECIAL_IPV4, *SPECIAL_IPV6])
def test_no_address_of_a_special_block_is_public(block: str) -> None:
    network = ipaddress.ip_network(block)
    middle = network.network_address + network.num_addresses // 2
    for address in (network.network_address, middle, network.broadcast_address):
        assert not is_public(address), address


@pytest.mark.parametrize("address", [*PUBLIC_IPV4, *PUBLIC_IPV6])
def test_addresses_beside_the_special_blocks_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("form", CARRYING)
@pytest.mark.parametrize("block", SPECIAL_IPV4)
def test_a_private_address_inside_another_is_not_public(form: str, block: str) -> None:
    network = ipaddress.IPv4Network(block)
    for inner in (network.network_address, network.broadcast_address):
        assert not is_public(ipaddress.IPv6Address(CARRYING[form](int(inner)))), inner


@pytest.mark.parametrize("form", CARRYING)
@pytest.mark.parametrize("address", PUBLIC_IPV4)
def test_a_public_address_inside_another_is_public(form: str, address: str) -> None:
    assert is_public(ipaddress.IPv6Address(CARRYING[form](int(ipaddress.IPv4Address(address)))))
