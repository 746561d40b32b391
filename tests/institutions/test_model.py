"""The rules for making institutions and keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import ErrorCode, Invalid, Refused
from app.institutions.model import (
    ApiKey,
    KeyDraft,
    NewKey,
    Region,
    Vertical,
    new_institution,
    new_key,
    secret_hash,
)
from app.principal import ROLE_SCOPES, Principal, Role, Scope, root

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "eg_" + "x" * 43


def institution(**changed: Any) -> Any:
    given = {"name": "Bank", "regions": [Region.US], "verticals": None} | changed
    return new_institution("inst_1", given["name"], given["regions"], given["verticals"], NOW)


def key(*, actor: Principal | None = None, **changed: Any) -> ApiKey:
    draft = KeyDraft(**({"label": "ci", "role": Role.ADMIN} | changed))
    return new_key("key_1", "inst_1", draft, secret=SECRET, actor=actor or root(), now=NOW)


def test_an_institution_without_verticals_works_in_all() -> None:
    assert institution().verticals == tuple(Vertical)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "a\ud800b"}, "name"),
        ({"regions": []}, "regions"),
        ({"regions": [Region.US, Region.US]}, "regions"),
        ({"regions": [Region.US] * 11}, "regions"),
        ({"verticals": []}, "verticals"),
        ({"verticals": [Vertical.CONSTRUCTION] * 2}, "verticals"),
    ],
)
def test_a_malformed_institution_is_refused_naming_the_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        institution(**changed)
    assert refused.value.field == field


def test_names_may_have_255_characters() -> None:
    assert len(institution(name="ü" * 255).name) == 255


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ROOT])
def test_a_key_has_all_scopes_of_its_role_by_default(role: Role) -> None:
    assert frozenset(key(role=role).scopes) == ROLE_SCOPES[role]


def test_a_key_can_be_narrowed_and_keeps_one_order_of_scopes() -> None:
    assert key(scopes=[Scope.KEYS_WRITE, Scope.READ]).scopes == (Scope.READ, Scope.KEYS_WRITE)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"label": ""}, "label"),
        ({"label": "x" * 256}, "label"),
        ({"role": Role.ROOT}, "role"),
        ({"scopes": []}, "scopes"),
        ({"scopes": [Scope.READ, Scope.READ]}, "scopes"),
        ({"role": Role.READ_ONLY, "scopes": [Scope.KEYS_WRITE]}, "scopes"),
        ({"scopes": [Scope.INSTITUTIONS_WRITE]}, "scopes"),
        ({"expires_at": NOW}, "expiresAt"),
        ({"expires_at": NOW - timedelta(seconds=1)}, "expiresAt"),
    ],
)
def test_a_malformed_key_is_refused_naming_the_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        key(**changed)
    assert refused.value.field == field


def test_nobody_gives_scopes_that_they_do_not_have() -> None:
    narrow = Principal("key_0", "narrow", Role.ADMIN, "inst_1", frozenset({Scope.KEYS_WRITE, Scope.READ}))
    assert key(actor=narrow, scopes=[Scope.READ]).scopes == (Scope.READ,)
    with pytest.raises(Refused) as refused:
        key(actor=narrow)
    assert refused.value.code == ErrorCode.ROLE_REFUSED
    assert refused.value.field == "scopes"


def test_a_key_is_usable_until_it_expires_or_is_revoked() -> None:
    made = key(expires_at=NOW + timedelta(hours=1))
    assert made.usable(NOW)
    assert not made.usable(NOW + timedelta(hours=1))


def test_a_principal_never_has_more_than_its_role() -> None:
    made = key(role=Role.READ_ONLY)
    tampered = ApiKey(**{name: getattr(made, name) for name in ApiKey.__slots__} | {"scopes": tuple(Scope)})
    assert tampered.principal.scopes == {Scope.READ}


def test_the_secret_is_not_shown() -> None:
    made = NewKey(key(), SECRET)
    assert SECRET not in repr(made)
    assert made.key.prefix == SECRET[:10]


def test_different_secrets_have_different_hashes_even_when_they_are_not_text() -> None:
    assert secret_hash("eg_\ud800") != secret_hash("eg_?")
