"""Which URLs and addresses nothing is ever sent to."""

import pytest

from app.webhooks import targets
from app.webhooks.targets import BadTarget

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata of Alibaba
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's wire server
    "169.254.169.254",  # metadata of most clouds
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # metadata of Oracle
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::1",  # 6to4 of 127.0.0.1
    "2002:a00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of AWS
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "nonsense",
    "",
]


# Spellings of addresses that systems connect to, of this machine and of others.
NUMERIC = [
    "https://2130706433/",
    "https://127.1/",
    "https://127.0.1/",
    "https://0177.0.0.1/",
    "https://0x7f000001/",
    "https://0x7F.1/",
    "https://0x/",
    "https://127.0.0.1./",
    "https://1.1.1.1.1/",
    "https://16843009/",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    assert not targets.is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_a_public_address_is_taken(address: str) -> None:
    assert targets.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/x",
        "https://",
        "https:///x",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com:70/",
        "javascript:alert(1)",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#part",
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://exa mple.com/",
        "https://example.com/\x00",
        "https://example.com/\n",
        "https://example.com/\ud800",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://db.localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://127\u30020\u30020\u30021/",
        "https://[64:ff9b::a00:1]/",
        *NUMERIC,
        "https://xn--/",
        "https://xn--a\u00e9.example/",
        "https://example.com/" + "x" * 2048,
    ],
)
def test_a_url_that_nothing_is_sent_to_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadTarget):
        targets.check(url, private=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://EXAMPLE.com./hooks?x=1",
        "https://example.com:443/",
        "https://example.com:8443/",
        "https://example.com:1024/",
        "https://m\u00fcnchen.example/",
        "https://1.1.1.1/",
        "https://1.example/",
        "https://0x7f.example/",
        "https://3com.com/",
        "https://[2606:4700:4700::1111]/",
    ],
)
def test_other_urls_are_taken(url: str) -> None:
    targets.check(url, private=False)


def test_development_allows_http_and_private_addresses_but_no_nonsense() -> None:
    for url in ("http://127.0.0.1:3000/", "http://localhost/", "https://10.0.0.1:22/"):
        targets.check(url, private=True)
    for url in ("ftp://127.0.0.1/", "http://a:b@127.0.0.1/", "http:///x", *NUMERIC):
        with pytest.raises(BadTarget):
            targets.check(url, private=True)
