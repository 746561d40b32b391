"""What a client asks to be run, whichever way it came: checked for its form before anything reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from app.http.wire import BadJsonError, RefusedError, decode
from app.kit.canonical import Json
from app.ledger.replica import Freshness

NAME_LENGTH_MAX = 255
DOCUMENT_ID_LENGTH_MAX = 80
PARAMETERS_MAX = 20
CURSOR_LENGTH_MAX = 1_024
AT_LEAST = "atLeast"
JSON_PARAMETERS = ("variables", "extensions")


@dataclass(frozen=True, slots=True)
class Asked:
    """One GraphQL request; it has a query, or names a trusted document instead, or both."""

    query: str | None
    variables: dict[str, object] | None = None
    operation_name: str | None = None
    extensions: dict[str, object] | None = None
    document_id: str | None = None
    freshness: Freshness | None = None

    @classmethod
    def of(cls, parameters: Json) -> "Asked":
        """The request that decoded JSON makes; raises `RefusedError` (400) when it makes none."""
        if isinstance(parameters, list):
            raise _bad("one operation a request: lists of operations are not taken")
        if not isinstance(parameters, Mapping):
            raise _bad("a GraphQL request is a JSON object")
        query, name = parameters.get("query"), parameters.get("operationName")
        extensions = _object(parameters, "extensions")
        if not isinstance(query, str) and query is not None:
            raise _bad("`query` is a string")
        document_id = _document_id(parameters, extensions)
        if not query and document_id is None:
            raise _bad("there is no `query`")
        if not isinstance(name, str) and name is not None:
            raise _bad("`operationName` is a string")
        if name is not None and len(name) > NAME_LENGTH_MAX:
            raise _bad(f"`operationName` has at most {NAME_LENGTH_MAX} characters")
        return cls(
            query, _object(parameters, "variables"), name, extensions, document_id, _freshness(extensions)
        )


async def posted(request: Request) -> Asked:
    """The request in a POST's body."""
    _check_type(request.headers.get("content-type"), request.headers.get("content-encoding", "identity"))
    return Asked.of(_json(await _body(request), "the body"))


def queried(request: Request) -> Asked:
    """The request in a GET's parameters."""
    try:
        text = request.scope["query_string"].decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise _bad("the parameters of the address are not UTF-8 text, or too many") from None
    found: dict[str, Json] = dict(pairs)
    if len(found) != len(pairs):
        raise _bad("the address names the same parameter twice")
    for name in JSON_PARAMETERS:
        if value := found.pop(name, None):
            found[name] = _json(str(value), f"`{name}`")
    return Asked.of(found)


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_type(content_type: str | None, encoding: str) -> None:
    name, *parameters = (piece.strip().lower() for piece in (content_type or "").split(";"))
    charsets = [piece.partition("=")[2].strip('"') for piece in parameters if piece.startswith("charset=")]
    if encoding != "identity" or name != "application/json" or not {"utf-8", "utf8"}.issuperset(charsets):
        raise RefusedError(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "send Content-Type: application/json, in UTF-8 and not compressed",
            {"Accept-Post": "application/json"},
        )


def _json(text: str | bytes, what: str) -> Json:
    try:
        return decode(text)
    except BadJsonError as error:
        raise _bad(f"{what}: {error}") from None


def _object(parameters: Mapping[str, Json], name: str) -> dict[str, object] | None:
    value = parameters.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _bad(f"`{name}` is an object")
    return value


def _document_id(parameters: Mapping[str, Json], extensions: Mapping[str, object] | None) -> str | None:
    """`documentId`, or what Apollo's clients call `extensions.persistedQuery.sha256Hash`."""
    found: object = parameters.get("documentId")
    if found is None and extensions is not None:
        persisted = extensions.get("persistedQuery")
        found = persisted.get("sha256Hash") if isinstance(persisted, Mapping) else None
    if found is None:
        return None
    if not isinstance(found, str) or not 1 <= len(found) <= DOCUMENT_ID_LENGTH_MAX:
        raise _bad("a document's id is a string such as sha256:<64 hex digits>")
    return found


def _freshness(extensions: Mapping[str, object] | None) -> Freshness | None:
    """`extensions.atLeast`: the cursor that an answer has to know of, or null for an answer however old."""
    if extensions is None or AT_LEAST not in extensions:
        return None
    cursor = extensions[AT_LEAST]
    if cursor is not None and (not isinstance(cursor, str) or len(cursor) > CURSOR_LENGTH_MAX):
        raise _bad("`extensions.atLeast` is a cursor of the ledger, or null")
    return Freshness(cursor)


def _bad(message: str) -> RefusedError:
    return RefusedError(400, "BAD_REQUEST", message)
