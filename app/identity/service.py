"""Tells who asks with a bearer token: signature, claims, times, and an institution that is there."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from app.identity.keyring import Keyring, PublicKey
from app.identity.model import TOKEN_PATTERN, BadToken, Bearer, Header, Rules, bearer, header_of
from app.institutions import service as institutions
from app.kit.canonical import Json, NotCanonical, parse_json
from app.kit.chain import digest
from app.kit.clock import Clock
from app.principal import Principal
from app.storage.database import Database

log = logging.getLogger("escrowgrid.identity")

TOKEN_LENGTH_MAX = 8_192
TOKENS_MAX = 10_000
INSTITUTIONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a token whose signature holds says, and the key that says so."""

    bearer: Bearer
    key: PublicKey


class Tokens:
    """One per process. It keeps hashes of tokens, never tokens; a key that the provider withdraws ends its tokens."""

    def __init__(self, database: Database, clock: Clock, rules: Rules, keyring: Keyring) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._keyring = keyring
        self._signatures = PyJWS(sorted(rules.algorithms), {"enforce_minimum_key_length": True})
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()
        self._institutions: OrderedDict[str, None] = OrderedDict()

    async def start(self) -> None:
        """Begin to read the provider's keys; a provider that is away keeps no server from starting."""
        self._keyring.begin()

    async def close(self) -> None:
        """Stop."""
        await self._keyring.close()

    async def authenticate(self, token: str) -> Principal | None:
        """Who asks with this token, or None. Raises `Unavailable` when that cannot be found out."""
        try:
            return await self._principal(token)
        except BadToken as error:
            log.info("a bearer token was refused: %s", error)
            return None

    async def _principal(self, token: str) -> Principal:
        if len(token) > TOKEN_LENGTH_MAX or TOKEN_PATTERN.fullmatch(token) is None:
            raise BadToken("it is no signed token")
        header = self._header(token)
        key = await self._keyring.key(header.key_id, header.algorithm)
        if key is None:
            raise BadToken("the provider has no key for it")
        found = self._signed(token, header, key)
        if not found.usable(self._clock(), self._rules.skew):
            raise BadToken("its time is over or has not come")
        await self._check_institution(found.principal.institution_id)
        return found.principal

    def _header(self, token: str) -> Header:
        try:
            return header_of(self._signatures.get_unverified_header(token), self._rules)
        except PyJWTError:
            raise BadToken("its header cannot be read") from None

    def _signed(self, token: str, header: Header, key: PublicKey) -> Bearer:
        """What the token says, once its signature by `key` holds; a signature is checked once for each key."""
        hashed = digest(token.encode())
        known = self._checked.get(hashed)
        if known is None or known.key != key:
            known = _Checked(bearer(self._claims(token, header, key), self._rules), key)
            self._checked[hashed] = known
        self._checked.move_to_end(hashed)
        while len(self._checked) > TOKENS_MAX:
            self._checked.popitem(last=False)
        return known.bearer

    def _claims(self, token: str, header: Header, key: PublicKey) -> Mapping[str, Json]:
        try:
            material = key.material(header.algorithm)
            payload = self._signatures.decode(token, material, algorithms=[header.algorithm])
        except (PyJWTError, ValueError, TypeError):
            raise BadToken("its signature does not hold") from None
        try:
            claims = parse_json(payload)
        except (NotCanonical, ValueError, RecursionError):
            raise BadToken("its claims cannot be read") from None
        if not isinstance(claims, dict):
            raise BadToken("its claims are no object")
        return claims

    async def _check_institution(self, institution_id: str | None) -> None:
        """Institutions are never deleted: one that was there stays there."""
        if institution_id is None or institution_id in self._institutions:
            return
        async with self._database.reading(institution_id) as connection:
            found = await institutions.fetch(connection, institution_id, institution_id)
        if found is None:
            raise BadToken("it names an institution that is not there")
        self._institutions[institution_id] = None
        while len(self._institutions) > INSTITUTIONS_MAX:
            self._institutions.popitem(last=False)
