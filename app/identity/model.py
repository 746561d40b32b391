"""What a token has to say, and whose principal it then is: pure rules over claims whose signature holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from app.kit.canonical import Json
from app.kit.ids import is_id
from app.kit.text import BadText, check_text
from app.principal import ROLE_SCOPES, Principal, Role

# A token is three parts of base64url. Those in five parts are encrypted: nothing of ours is.
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}")
# Tokens made for another purpose, such as logout+jwt, name it here.
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
SUBJECT_LENGTH_MAX = 255
KEY_ID_LENGTH_MAX = 255
# Actors of ours are called `root`, `clerk` or by their key's id: no provider can name one of those.
ACTOR_START = "oidc:"
LAST = datetime(9999, 1, 1, tzinfo=UTC)
YEARS_MAX = LAST.timestamp()

# The claims that make a principal may lie deeper, as a JSON pointer says: /realm_access/roles.
POINTER_START = "/"


class BadToken(ValueError):
    """A token that opens nothing; the message says why, without a word of what the token says."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a token's header says about its signature."""

    algorithm: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What tokens are judged by; `skew` forgives clocks that disagree."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    institution_claim: str
    role_claim: str
    root_role: str | None
    skew: timedelta
    # For so long after a token's end the keys last that were made with it, at most.
    keys_last: timedelta


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token's principal, and the span in which it is one."""

    principal: Principal
    not_before: datetime
    ends_at: datetime

    def usable(self, now: datetime, skew: timedelta) -> bool:
        """Whether the token opens anything now."""
        return self.not_before - skew <= now < self.ends_at + skew


def header_of(found: Mapping[str, Json], rules: Rules) -> Header:
    """The header, when it names an algorithm that is allowed and nothing that has to be understood."""
    algorithm, key_id = found.get("alg"), found.get("kid")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        raise BadToken("its algorithm is not allowed")
    if "crit" in found or "b64" in found:
        raise BadToken("its header asks for extensions")
    type_ = found.get("typ", "JWT")
    if not isinstance(type_, str) or type_.lower() not in TYPES:
        raise BadToken("it was made for another purpose")
    if key_id is not None and (not isinstance(key_id, str) or not 0 < len(key_id) <= KEY_ID_LENGTH_MAX):
        raise BadToken("its key's id is malformed")
    return Header(algorithm, key_id)


def bearer(claims: Mapping[str, Json], rules: Rules) -> Bearer:
    """Who the token says asks, and from when to when; raises `BadToken`. Its times are not compared with now."""
    if claims.get("iss") != rules.issuer:
        raise BadToken("another issuer made it")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if rules.audience not in audiences:
        raise BadToken("it is meant for another audience")
    issued, ends = _moment(claims, "iat"), _moment(claims, "exp")
    begins = _moment(claims, "nbf") if "nbf" in claims else issued
    if ends <= issued:
        raise BadToken("it ended before it was issued")
    role = _role(claims, rules)
    institution_id = None if role is Role.ROOT else _institution(claims, rules)
    actor = ACTOR_START + _subject(claims)
    keys_end_by = min(ends, LAST - rules.keys_last) + rules.keys_last
    principal = Principal(actor, "", role, institution_id, ROLE_SCOPES[role], ends, keys_end_by)
    return Bearer(principal, max(issued, begins), ends)


def _role(claims: Mapping[str, Json], rules: Rules) -> Role:
    """The one role that the claim names; other words beside it, as providers put them there, mean nothing."""
    said = claim(claims, rules.role_claim)
    words = {word for word in (said if isinstance(said, list) else [said]) if isinstance(word, str)}
    if rules.root_role is not None and rules.root_role in words:
        return Role.ROOT
    # Of ASCII alone: the large letter of a dotless i is an I, too.
    plain = {word.upper() for word in words if word.isascii()}
    roles = {Role[word] for word in plain if word in Role.__members__} - {Role.ROOT}
    if len(roles) != 1:
        raise BadToken("it does not name one role of ours")
    return roles.pop()


def _institution(claims: Mapping[str, Json], rules: Rules) -> str:
    said = claim(claims, rules.institution_claim)
    if not isinstance(said, str) or not is_id(said, "inst"):
        raise BadToken("it does not name one institution")
    return said


def _subject(claims: Mapping[str, Json]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.isprintable():
        raise BadToken("it does not say who asks")
    try:
        return check_text(subject, length_max=SUBJECT_LENGTH_MAX)
    except BadText:
        raise BadToken("it does not say who asks") from None


def _moment(claims: Mapping[str, Json], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value < YEARS_MAX:
        raise BadToken(f"its {name} is no time")
    return datetime.fromtimestamp(float(value), UTC)


def claim(claims: Mapping[str, Json], name: str) -> Json:
    """A claim by its name, or by a JSON pointer (RFC 6901) when the name begins with a slash; None without it."""
    if not name.startswith(POINTER_START):
        return claims.get(name)
    found: Json = claims
    for part in name[1:].split("/"):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found
