"""Bearer tokens: what a good one opens, and every way in which a bad one opens nothing."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.identity.authenticator import KeysAndTokens
from app.institutions.model import Institution
from app.kit.ids import Ids
from app.principal import ROLE_SCOPES, Principal, Role
from app.settings import Settings

from .conftest import Ask
from .provider import Provider, SigningKey, forged


@pytest.mark.parametrize("role", ["admin", "operator", "read_only", "auditor", "ADMIN"])
async def test_a_token_asks_for_its_institution_in_its_role(
    ask: Ask, provider: Provider, institution: Institution, role: str
) -> None:
    ends = int(time.time()) + 60
    found = await ask(provider.token(institution_id=institution.id, role=role, sub="s-1", exp=ends))
    assert found is not None
    assert (found.id, found.institution_id, found.role) == ("oidc:s-1", institution.id, Role[role.upper()])
    assert found.scopes == ROLE_SCOPES[found.role]
    assert found.expires_at is not None
    assert found.expires_at.timestamp() == ends


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_every_algorithm_of_the_list_is_taken(
    ask: Ask, provider: Provider, institution: Institution, algorithm: str
) -> None:
    await provider.publish(SigningKey.new("other", "ES384"), SigningKey.new("k2", algorithm))
    assert await ask(provider.token(provider.keys[1], institution_id=institution.id))
    assert await ask(provider.token(provider.keys[1], institution_id=institution.id, aud=["x", "escrowgrid"]))
    # Without an id the one key that fits is meant.
    unnamed = provider.token(provider.keys[1], headers={"kid": None}, institution_id=institution.id)
    assert await ask(unnamed)


async def test_a_subject_is_never_one_of_our_own_names(
    ask: Ask, provider: Provider, institution: Institution
) -> None:
    for name in ("root", "clerk", "key_01j00000000000000000000000"):
        found = await ask(provider.token(institution_id=institution.id, sub=name))
        assert found is not None
        assert found.id == f"oidc:{name}"


Change = Callable[[Provider], dict[str, Any]]
NOW = time.time
BAD_CLAIMS: dict[str, Change] = {
    "another issuer": lambda provider: {"iss": "https://somebody.example"},
    "an issuer with a slash": lambda provider: {"iss": provider.issuer + "/"},
    "no issuer": lambda _: {"iss": None},
    "another audience": lambda _: {"aud": "another"},
    "other audiences": lambda _: {"aud": ["a", "b"]},
    "an audience that begins so": lambda _: {"aud": "escrowgrid2"},
    "no audience": lambda _: {"aud": None},
    "expired": lambda _: {"exp": NOW() - 6},
    "no end": lambda _: {"exp": None},
    "an end that is text": lambda _: {"exp": "9999999999"},
    "an end that is true": lambda _: {"exp": True},
    "an end beyond all calendars": lambda _: {"exp": 1e300},
    "a negative end": lambda _: {"exp": -1},
    "not yet valid": lambda _: {"nbf": NOW() + 60},
    "a beginning that is text": lambda _: {"nbf": "soon"},
    "issued in the future": lambda _: {"iat": NOW() + 60},
    "never issued": lambda _: {"iat": None},
    "ended before it was issued": lambda _: {"iat": NOW() - 1, "exp": NOW() - 2},
    "no subject": lambda _: {"sub": None},
    "an empty subject": lambda _: {"sub": ""},
    "a subject that is too long": lambda _: {"sub": "x" * 256},
    "a subject with a line break": lambda _: {"sub": "a\nb"},
    "a subject with NUL": lambda _: {"sub": "a\x00b"},
    "an unknown role": lambda _: {"role": "owner"},
    "no role": lambda _: {"role": None},
    "a role in other letters that are written large alike": lambda _: {"role": "adm\u0131n"},
    "a role that is a number": lambda _: {"role": 1},
    "root": lambda _: {"role": "root"},
    "ROOT among others": lambda _: {"role": ["ROOT"]},
    "two roles": lambda _: {"role": ["admin", "auditor"]},
    "an institution that is not there": lambda _: {"institution_id": Ids().new("inst")},
    "an institution that is no id": lambda _: {"institution_id": "acme"},
    "every institution": lambda _: {"institution_id": "*"},
    "an id of another kind": lambda _: {"institution_id": Ids().new("key")},
    "several institutions": lambda _: {"institution_id": [Ids().new("inst")]},
    "no institution": lambda _: {"institution_id": None},
    "an empty scope": lambda _: {"institution_id": ""},
}


@pytest.mark.parametrize("change", BAD_CLAIMS.values(), ids=BAD_CLAIMS)
async def test_claims_that_open_nothing(
    ask: Ask, provider: Provider, institution: Institution, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token = provider.token(**({"institution_id": institution.id, "sub": "very-private"} | change(provider)))
    assert await ask(token) is None
    assert await ask(provider.token(institution_id=institution.id)), "the same without the change is good"
    said = [record.getMessage() for record in caplog.records if record.name == "escrowgrid.identity"]
    assert len([line for line in said if "refused" in line]) == 1
    assert not any(word in line for line in said for word in (token[:20], "very-private", institution.id))


async def test_the_skew_forgives_clocks_that_disagree_and_no_more(
    ask: Ask, provider: Provider, institution: Institution
) -> None:
    now = time.time()
    assert await ask(provider.token(institution_id=institution.id, nbf=now + 3, iat=now + 3))
    assert await ask(provider.token(institution_id=institution.id, iat=now - 60, exp=now - 3))
    assert await ask(provider.token(institution_id=institution.id, nbf=now + 8)) is None
    assert await ask(provider.token(institution_id=institution.id, iat=now - 60, exp=now - 8)) is None


async def test_a_token_that_is_known_still_ends(
    ask: Ask, provider: Provider, institution: Institution
) -> None:
    token = provider.token(institution_id=institution.id, exp=time.time() - 4)
    assert await ask(provider.token(institution_id=institution.id)) is not None
    token = provider.token(institution_id=institution.id, iat=time.time() - 60, exp=time.time() - 4.2)
    assert await ask(token) is not None
    await asyncio.sleep(1.0)
    assert await ask(token) is None


class TestForgeries:
    """Tokens that nobody with the provider's key has signed."""

    @pytest.fixture
    def good(self, provider: Provider, institution: Institution) -> dict[str, Any]:
        return provider.claims() | {"institution_id": institution.id}

    @pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
    async def test_without_a_signature(self, ask: Ask, good: dict[str, Any], name: str) -> None:
        for key_id in ({"kid": "k1"}, {}):
            for signature in (b"", b"xx"):
                assert await ask(forged({"alg": name, **key_id}, good, signature)) is None

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    async def test_the_public_key_is_no_secret_of_a_mac(
        self, ask: Ask, provider: Provider, good: dict[str, Any], algorithm: str
    ) -> None:
        await provider.publish(SigningKey.new("k1", "RS256"))
        public = provider.keys[0].private.public_key()
        spellings = [
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(provider.keys[0].jwk()).encode(),
        ]
        unsigned = forged({"alg": algorithm, "typ": "JWT", "kid": "k1"}, good).rstrip(".")
        for secret in spellings:
            mac = hmac.new(secret, unsigned.encode(), getattr(hashlib, f"sha{algorithm[2:]}")).digest()
            assert await ask(f"{unsigned}.{jwt.utils.base64url_encode(mac).decode()}") is None
        assert await ask(provider.token(**good))

    async def test_by_another_key_of_the_same_name(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        assert await ask(provider.token(SigningKey.new("k1"), **good)) is None

    async def test_with_the_key_in_its_own_header(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        mine = SigningKey.new("k1")
        headers = {"jwk": mine.jwk(), "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x"}
        assert await ask(provider.token(mine, headers=headers, **good)) is None

    async def test_claims_changed_after_signing(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        head, body, signature = provider.token(**good | {"role": "read_only"}).split(".")
        changed = forged({}, good).split(".")[1]
        assert await ask(f"{head}.{changed}.{signature}") is None
        assert await ask(f"{head}.{body}.{signature[:-4]}AAAA") is None
        assert await ask(f"{head}.{body}.{signature}")

    async def test_the_key_says_which_algorithm_not_the_token(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        """An RSA key bound to RS512 checks no RS256, and an elliptic one checks nothing of RSA's."""
        bound = SigningKey.new("k1", "RS256", alg="RS512")
        await provider.publish(bound)
        assert await ask(provider.token(bound, **good)) is None
        await provider.publish(SigningKey.new("k1", "ES256"))
        assert await ask(provider.token(SigningKey.new("k1", "RS256"), **good)) is None

    async def test_an_algorithm_that_is_not_on_the_list(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        await provider.publish(*provider.keys, SigningKey.new("k3", "ES384"))
        assert await ask(provider.token(provider.keys[1], **good)) is None

    @pytest.mark.parametrize(
        "headers",
        [
            {"crit": ["exp"]},
            {"typ": "logout+jwt"},
            {"typ": "dpop+jwt"},
            {"typ": 7},
            {"kid": "x" * 256},
            {"kid": "unknown"},
        ],
        ids=str,
    )
    async def test_headers_that_ask_for_something_else(
        self, ask: Ask, provider: Provider, good: dict[str, Any], headers: dict[str, Any]
    ) -> None:
        assert await ask(provider.token(headers=headers, **good)) is None
        assert await ask(provider.token(headers={"typ": "at+jwt"}, **good))

    @pytest.mark.parametrize(
        "text",
        [
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            "a.b.c.d.e",
            "....",
            "é.b.c",
            "a.b.c\n",
            "{}.{}.{}",
            "x" * 9000 + ".b.c",
        ],
        ids=lambda text: text[:10],
    )
    async def test_what_is_no_token(self, ask: Ask, text: str) -> None:
        assert await ask(text) is None

    @pytest.mark.parametrize(
        "payload", ["[]", "7", "null", '"x"', "{", '{"iss": "a", "iss": "b"}', "[" * 5000, '{"exp": NaN}']
    )
    async def test_claims_that_are_no_object(self, ask: Ask, provider: Provider, payload: str) -> None:
        key = provider.keys[0]
        token = jwt.api_jws.encode(payload.encode(), key.private, key.algorithm, headers={"kid": "k1"})
        assert await ask(token) is None

    async def test_two_keys_of_one_name_are_nobodys(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        await provider.publish(SigningKey.new("k1"), SigningKey.new("k1"))
        assert await ask(provider.token(**good)) is None
        assert await ask(provider.token(headers={"kid": None}, **good)) is None

    async def test_keys_that_are_for_something_else_check_nothing(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        for extra in ({"use": "enc"}, {"key_ops": ["sign"]}, {"alg": "ECDH-ES"}):
            await provider.publish(SigningKey.new("k1", **extra))
            assert await ask(provider.token(**good)) is None

    async def test_a_short_key_checks_nothing(
        self, ask: Ask, provider: Provider, good: dict[str, Any]
    ) -> None:
        await provider.publish(SigningKey.new("k1", "RS256", bits=1024))
        with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
            token = provider.token(**good)
        assert await ask(token) is None


class TestRoot:
    """No token is root, unless a setting names the word that makes one."""

    @pytest.fixture
    def changes(self) -> dict[str, Any]:
        return {"oidc_root_role": "escrowgrid-operators"}

    async def test_the_word_makes_root_and_nothing_like_it_does(
        self, ask: Ask, provider: Provider, institution: Institution
    ) -> None:
        found = await ask(provider.token(role=["offline_access", "escrowgrid-operators"]))
        assert found is not None
        assert (found.role, found.institution_id, found.id) == (Role.ROOT, None, "oidc:somebody")
        for word in ("root", "ROOT", "Escrowgrid-Operators", "escrowgrid-operators "):
            assert await ask(provider.token(role=word, institution_id=institution.id)) is None
        admin = await ask(provider.token(role="admin", institution_id=institution.id))
        assert admin is not None
        assert admin.role is Role.ADMIN


class TestClaims:
    """Where role and institution are is a matter of settings."""

    @pytest.fixture
    def changes(self) -> dict[str, Any]:
        return {"oidc_role_claim": "/realm_access/roles", "oidc_institution_claim": "https://eg.example/inst"}

    async def test_they_may_lie_deeper_or_have_long_names(
        self, ask: Ask, provider: Provider, institution: Institution
    ) -> None:
        named = {"https://eg.example/inst": institution.id}
        found = await ask(provider.token(**named, realm_access={"roles": ["uma", "operator"]}))
        assert isinstance(found, Principal)
        assert found.role is Role.OPERATOR
        for other in ({}, {"roles": {"operator": 1}}, [], "operator"):
            assert await ask(provider.token(**named, realm_access=other)) is None
        assert await ask(provider.token(**named, role="admin")) is None


class TestWithoutAProvider:
    """Where no provider is set, no token opens anything and nobody is asked."""

    @pytest.fixture
    def changes(self) -> dict[str, Any]:
        return {"oidc_issuer": None}

    async def test_no_token_is_taken(self, ask: Ask, provider: Provider, institution: Institution) -> None:
        assert await ask(provider.token(institution_id=institution.id)) is None
        assert provider.asked == {}


GOOD = {"OIDC_ISSUER": "https://login.example/realms/a", "OIDC_AUDIENCE": "escrowgrid"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"OIDC_ISSUER": "http://login.example"},
        {"OIDC_ISSUER": "https://login.example?x=1"},
        {"OIDC_ISSUER": "https://user@login.example"},
        {"OIDC_ISSUER": "ftp://login.example"},
        {"OIDC_JWKS_URL": "http://login.example/keys"},
        {"OIDC_AUDIENCE": ""},
        {"OIDC_ALGORITHMS": "RS256,HS256"},
        {"OIDC_ALGORITHMS": "none"},
        {"OIDC_ALGORITHMS": "RS256,"},
        {"OIDC_ROOT_ROLE": "admin"},
        {"OIDC_CLOCK_SKEW_SECONDS": "301"},
        {"OIDC_CLOCK_SKEW_SECONDS": "-1"},
    ],
    ids=str,
)
def test_settings_that_would_open_too_much_are_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    for name, value in (GOOD | wrong).items():
        monkeypatch.setenv(name, value)
    if wrong == {"OIDC_ALGORITHMS": "RS256,"}:
        assert Settings().oidc_algorithms == ("RS256",)
        return
    with pytest.raises(ValueError, match=r"OIDC|oidc"):
        Settings()


def test_settings_that_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (GOOD | {"OIDC_ALGORITHMS": "PS256, EdDSA"}).items():
        monkeypatch.setenv(name, value)
    assert Settings().oidc_algorithms == ("PS256", "EdDSA")


async def test_keys_and_root_go_on_beside_tokens(authenticator: KeysAndTokens) -> None:
    root = await authenticator.authenticate("root-key-of-the-tests")
    assert root is not None
    assert root.role is Role.ROOT
    assert await authenticator.authenticate("eg_" + "x" * 43) is None
