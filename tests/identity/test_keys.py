"""The provider's keys: rotated, cached, asked for once at a time, and believed for a while when it is away."""

import asyncio
import json
from typing import Any

import pytest

from app.errors import Unavailable
from app.identity import provider as providers
from app.identity.keyring import Keyring, Pace, Unreadable, public_keys
from app.identity.provider import Provider as Reader
from app.identity.provider import is_safe
from app.institutions.model import Institution

from .conftest import Ask
from .provider import Provider, SigningKey, provided

KEYS = "/keys"


async def test_a_new_key_is_found_when_a_token_names_it_and_a_withdrawn_one_ends(
    ask: Ask, provider: Provider, institution: Institution
) -> None:
    old = provider.token(institution_id=institution.id)
    assert await ask(old)
    fresh = SigningKey.new("k2", "EdDSA")
    await provider.publish(*provider.keys, fresh)
    before = provider.asked[KEYS]
    assert await ask(provider.token(fresh, institution_id=institution.id)), "without waiting for anything"
    assert await ask(old), "both are published"
    assert provider.asked[KEYS] == before + 1
    await provider.publish(fresh)
    await ask(provider.token(SigningKey.new("k9"), institution_id=institution.id))
    assert await ask(old) is None, "it was known, but its key is the provider's no more"
    assert await ask(provider.token(fresh, institution_id=institution.id))


async def test_a_key_replaced_under_its_own_name_ends_what_it_signed(
    ask: Ask, provider: Provider, institution: Institution
) -> None:
    old = provider.token(institution_id=institution.id)
    assert await ask(old)
    await provider.publish(SigningKey.new("k1"))
    await ask(provider.token(SigningKey.new("k9"), institution_id=institution.id))
    assert await ask(old) is None


class TestPace:
    """A keyring by itself, with paces of the test's choice."""

    async def test_unknown_keys_are_asked_for_once_per_interval(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            ring = Keyring(Reader(provider.issuer).keys, Pace(60, 0.3, 60))
            found = await asyncio.gather(*(ring.key(f"x{n}", "ES256") for n in range(200)))
            assert found == [None] * 200
            assert provider.asked[KEYS] == 1, "the first reading was for all"
            assert await ring.key("k1", "ES256") is not None
            await asyncio.sleep(0.35)
            for n in range(100):
                assert await ring.key(f"y{n}", "ES256") is None
            assert provider.asked[KEYS] == 2
            await ring.close()

    async def test_those_who_come_at_once_wait_for_one_reading(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            provider.delay = 0.1
            ring = Keyring(Reader(provider.issuer, f"{provider.issuer}{KEYS}").keys, Pace(60, 0.3, 60))
            found = await asyncio.gather(*(ring.key("k1", "ES256") for _ in range(100)))
            assert all(key is not None and key.id == "k1" for key in found)
            assert provider.asked == {KEYS: 1}, "a URL in the settings needs no discovery"
            await ring.close()

    async def test_one_who_goes_away_takes_nothing_from_the_others(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            provider.delay = 0.1
            ring = Keyring(Reader(provider.issuer).keys, Pace(60, 0.3, 60))
            first = asyncio.create_task(ring.key("k1", "ES256"))
            second = asyncio.create_task(ring.key("k1", "ES256"))
            await asyncio.sleep(0.02)
            first.cancel()
            assert await second is not None
            await ring.close()

    async def test_old_keys_are_read_again_without_anybody_waiting(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            ring = Keyring(Reader(provider.issuer).keys, Pace(0.1, 0.05, 60))
            assert await ring.key("k1", "ES256")
            await asyncio.sleep(0.15)
            provider.delay = 0.2
            began = asyncio.get_running_loop().time()
            assert await ring.key("k1", "ES256")
            assert asyncio.get_running_loop().time() - began < 0.1
            await asyncio.sleep(0.6)
            assert provider.asked[KEYS] == 2
            await ring.close()

    async def test_stale_keys_serve_while_the_provider_is_away_and_not_for_ever(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            ring = Keyring(Reader(provider.issuer).keys, Pace(0.1, 0.02, 3.0))
            assert await ring.key("k1", "ES256")
            provider.status = 503
            for _ in range(5):
                await asyncio.sleep(0.08)
                assert await ring.key("k1", "ES256"), "old, but not too old"
            with pytest.raises(Unavailable):
                await ring.key("k2", "ES256")
            await asyncio.sleep(3.2)
            with pytest.raises(Unavailable):
                await ring.key("k1", "ES256")
            provider.status = 200
            await asyncio.sleep(0.05)
            assert await ring.key("k1", "ES256"), "it is back"
            assert await ring.key("k2", "ES256") is None
            await ring.close()

    async def test_a_provider_that_is_away_is_not_hammered(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            provider.status = 500
            ring = Keyring(Reader(provider.issuer, f"{provider.issuer}{KEYS}").keys, Pace(60, 0.5, 60))
            for _ in range(50):
                with pytest.raises(Unavailable):
                    await ring.key("k1", "ES256")
            assert provider.asked == {KEYS: 1}
            await ring.close()


class TestReading:
    """What is taken for a key set."""

    async def test_discovery_that_cannot_be_believed(self) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            reader = Reader(provider.issuer)
            assert len(await reader.keys()) == 1
            provider.said_issuer = "https://another.example"
            with pytest.raises(Unreadable, match="another name"):
                await reader.keys()
            provider.said_issuer = None
            for url in ("http://elsewhere.example/keys", "file:///etc/passwd", "//x", ""):
                provider.said_keys_url = url or "nothing"
                with pytest.raises(Unreadable, match="jwks_uri"):
                    await reader.keys()

    @pytest.mark.parametrize("status", [204, 301, 302, 307, 404, 500])
    async def test_other_answers_are_none(self, status: int) -> None:
        async with provided(SigningKey.new("k1")) as provider:
            provider.status = status
            with pytest.raises(Unreadable):
                await Reader(provider.issuer, f"{provider.issuer}{KEYS}").keys()
            assert "/other" not in provider.asked, "no redirect is followed"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keys": {}}',
            b"\xff",
            b"[" * 10_000,
            b'{"keys": [], "keys": []}',
            b'{"keys": ["' + b"x" * 300_000 + b'"]}',
        ],
        ids=lambda body: repr(body[:12]),
    )
    async def test_answers_that_are_no_key_set(self, body: bytes) -> None:
        async with provided() as provider:
            provider.body = body
            with pytest.raises(Unreadable):
                await Reader(provider.issuer, f"{provider.issuer}{KEYS}").keys()

    async def test_a_provider_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(providers, "TIMEOUT_SECONDS", 0.1)
        async with provided() as provider:
            provider.delay = 1.0
            with pytest.raises(Unreadable, match="did not answer"):
                await Reader(provider.issuer).keys()
        with pytest.raises(Unreadable):
            await Reader("http://127.0.0.1:1").keys()

    async def test_whatever_reading_them_fails_with_says_that_they_cannot_be_read_now(self) -> None:
        async def read() -> list[Any]:
            raise RuntimeError("nobody foresaw it")

        with pytest.raises(Unavailable, match="try again shortly"):
            await Keyring(read, Pace(60, 0.3, 60)).key("a", "RS256")

    def test_only_whole_public_keys_for_signatures_are_kept(self) -> None:
        good = SigningKey.new("good", "RS256").jwk()
        curve = SigningKey.new("c", "ES256").jwk()
        bad: list[Any] = [
            None,
            "x",
            7,
            [],
            {},
            good | {"use": "enc"},
            good | {"key_ops": ["encrypt"]},
            good | {"key_ops": "verify"},
            good | {"n": "AQ", "e": None},
            good | {"alg": "HS256"},
            good | {"kid": 7},
            good | {"kid": "\ud800"},
            good | {"x5t": ["\ud800"]},
            curve | {"crv": "secp256k1"},
            curve | {"x": "AA"},
            curve | {"crv": "P-384"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "mac"},
            {"kty": "oct", "kid": "mac"},
            SigningKey.new("leaked", "EdDSA").jwk(private=True),
            SigningKey.new("leaked", "RS256").jwk(private=True),
        ]
        assert [key.id for key in public_keys([*bad, good, curve])] == ["good", "c"]
        assert len(public_keys([good] * 1000)) == 100

    def test_keys_are_read_over_connections_that_can_be_believed(self) -> None:
        assert all(map(is_safe, ("https://a.example/k?x=1", "http://127.0.0.1:9/k", "http://[::1]/k")))
        bad = ("http://a.example", "http://127.0.0.1.a.example/", "https://", "file:///k", "https://[x", "k")
        assert not any(map(is_safe, bad))

    async def test_a_key_set_is_never_run_or_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        key = SigningKey.new("leaked", "EdDSA")
        public_keys([key.jwk(private=True)])
        assert "has to be secret" in caplog.text
        assert key.jwk(private=True)["d"] not in caplog.text
        assert json.dumps(key.jwk()) not in caplog.text
