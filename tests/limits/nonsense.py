"""Makes what hostile, broken and half-right clients send, over and over the same for the same seed."""

import json
import random
import string
from typing import Any
from urllib.parse import quote

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

TEXTS = (
    "",
    "x",
    "é",
    "\x00",
    "\u2028",
    "😀",
    "a" * 300,
    "'; DROP TABLE positions; --",
    "%s%n",
    "../../etc",
    "null",
)
NUMBERS = (0, 1, -1, 2, 50, 500, 501, 2**31 - 1, 2**31, -(2**31) - 1, 2**63, 10**30)
AMOUNTS = ("0", "1", "0.01", "-1", "1e5", "NaN", "Infinity", "1.234", "9" * 20, "١", "1_000", "")
TIMES = (
    "2026-01-01T00:00:00Z",
    "2026-01-01",
    "now",
    "9999-12-31T23:59:59.999999Z",
    "2026-02-30T00:00:00Z",
    "",
)
HEADERS = (
    (
        "Accept",
        (
            "application/json",
            "application/graphql-response+json",
            "text/event-stream",
            "*/*",
            "text/html",
            "application/json;q=2",
            "a" * 500,
            "image/png",
            ",,,;;;=",
        ),
    ),
    (
        "Content-Type",
        (
            "application/json",
            "application/json; charset=utf-8",
            "text/plain",
            "application/graphql",
            "multipart/form-data; boundary=x",
            "application/json; charset=latin-1",
            "",
        ),
    ),
    ("Idempotency-Key", ("k", "x" * 255, "x" * 256, "é", "\x01")),
    ("Last-Event-ID", ("c", "x" * 2000, "%00", "")),
    ("X-Request-Id", ("r", "<script>", "x" * 100)),
    ("Content-Encoding", ("gzip", "identity", "br")),
    ("Origin", ("https://evil.example", "null")),
    ("X-Forwarded-For", ("1.2.3.4", "::1", "nonsense", "1.1.1.1," * 100)),
    ("Cookie", ("a=b", "x" * 2000)),
    ("Range", ("bytes=0-1",)),
    ("Expect", ("nothing",)),
)
PATHS = (
    "/graphql",
    "/graphql/",
    "/",
    "/nothing",
    "/graphql?query={viewer{id}}",
    "/%00",
    "/graphql?%FF",
    "/metrics",
    "/health",
    "/graphiql/operations.json",
    "/graphiql/assets/../../x",
    "/audit.ndjson",
    "/graphql?variables=[",
)
KEYS = ("wrong", "", "eg_" + "x" * 43, "Bearer", "é", "a.b.c", "x" * 5000)


class Nonsense:
    """One stream of requests and frames."""

    def __init__(self, seed: int, schema: GraphQLSchema, ids: list[str], keys: list[str]) -> None:
        self.random = random.Random(seed)
        self._schema = schema
        self._ids = ids
        self._keys = keys
        self._number = 0
        # Of the document that is being made.
        self._declared: dict[str, tuple[Any, Any]] = {}

    def request(self) -> bytes:
        """A request as bytes; nearly always HTTP."""
        chance = self.random
        if chance.random() < 0.03:
            return self._bytes(200) + b"\r\n\r\n"
        method = chance.choices(("POST", "GET", "PUT", "OPTIONS", "HEAD", "BREW"), (75, 17, 2, 2, 2, 2))[0]
        body = self._body() if method in {"POST", "PUT"} or chance.random() < 0.05 else b""
        path = "/graphql" if chance.random() < 0.9 else chance.choice(PATHS)
        if method == "GET" and path == "/graphql":
            path += "?" + "&".join(
                f"{name}={self._quoted(value)}" for name, value in self._parameters().items()
            )
        headers = {
            "Host": "x",
            "Connection": "close",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        for name, values in HEADERS:
            if chance.random() < 0.06:
                headers[name] = chance.choice(values)
        headers.update(self._key_headers())
        length = len(body) if chance.random() < 0.98 else chance.choice((0, len(body) // 2, "x", -1))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if body or method == "POST":
            lines.append(f"Content-Length: {length}")
        return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body

    def frame(self) -> str | bytes:
        """A frame of a socket."""
        chance = self.random
        kind = chance.choices(
            ("subscribe", "complete", "ping", "pong", "connection_init", "other", "text", "bytes"),
            (800, 60, 60, 30, 3, 4, 6, 2),
        )[0]
        if kind == "text":
            return chance.choice(
                ("", "{", "[]", "null", "7", '"x"', "[" * 2000, '{"type":"ping","type":"ping"}', "NaN")
            )
        if kind == "bytes":
            return self._bytes(50)
        frame: dict[str, Any] = {
            "type": kind if kind != "other" else chance.choice((None, 7, "start", "next", {}))
        }
        if kind in {"subscribe", "complete"} or chance.random() < 0.05:
            self._number += 1
            frame["id"] = (
                f"{self._number}" if chance.random() < 0.99 else chance.choice(("a", "b", "", 7, None))
            )
        if kind == "subscribe":
            # What ends a socket comes seldom, so that most of the others are sent on one that is open.
            broken = chance.random() < 0.03
            frame["payload"] = self._parameters(broken=broken) if chance.random() < 0.995 else self._value()
        elif chance.random() < 0.3:
            frame["payload"] = {"n": chance.choice(NUMBERS)} if chance.random() < 0.97 else self._value()
        text = json.dumps(frame)
        return self._scratched(text).encode("utf-8", "replace").decode() if chance.random() < 0.005 else text

    def _key_headers(self) -> dict[str, str]:
        chance = self.random
        if chance.random() < 0.88:
            return {"Authorization": f"Bearer {chance.choice(self._keys)}"}
        name = chance.choice(("Authorization", "X-API-Key"))
        return {} if chance.random() < 0.3 else {name: chance.choice(KEYS)}

    def _body(self) -> bytes:
        chance = self.random
        if chance.random() < 0.03:
            return self._bytes(300)
        if chance.random() < 0.03:
            deep = chance.choice((50, 500, 5000))
            return b"[" * deep + b"]" * deep
        text = json.dumps(self._parameters() if chance.random() < 0.97 else self._value())
        return (self._scratched(text) if chance.random() < 0.06 else text).encode("utf-8", "surrogatepass")

    def _parameters(self, *, broken: bool = True) -> dict[str, Any]:
        chance = self.random
        text = self._document()
        found: dict[str, Any] = {"query": self._scratched(text) if chance.random() < 0.15 else text}
        if chance.random() < 0.3:
            found["variables"] = {
                chance.choice(("a", "b", "input", "id", "first")): self._value()
                for _ in range(chance.randint(0, 3))
            }
        if self._declared:
            given = {name: value for name, (_type, value) in self._declared.items() if chance.random() < 0.98}
            found["variables"] = found.get("variables", {}) | given
        if chance.random() < 0.04:
            found["operationName"] = chance.choice(("Q", "", "x" * 300, None, 7) if broken else ("Q", None))
        if chance.random() < 0.05 and not broken:
            found["documentId"] = "sha256:" + "0" * 64
        elif broken and chance.random() < 0.05:
            id = chance.choice(("0" * 64, "x", "sha256:" + "0" * 64, "", "g" * 64))
            found |= chance.choice(
                (
                    {"documentId": id},
                    {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": id}}},
                    {"extensions": self._value()},
                )
            )
            if chance.random() < 0.5:
                del found["query"]
        return found

    def _document(self) -> str:
        chance = self.random
        self._declared = {}
        kind = chance.choices(("query", "mutation", "subscription"), (70, 18, 12))[0]
        root = {
            "query": self._schema.query_type,
            "mutation": self._schema.mutation_type,
            "subscription": self._schema.subscription_type,
        }[kind]
        fields = 1 if kind == "subscription" or chance.random() < 0.6 else chance.randint(2, 4)
        inner = " ".join(self._field(root, depth=chance.choice((1, 2, 2, 3, 3, 4, 7))) for _ in range(fields))
        head, tail = kind + chance.choice(("", " Q")), ""
        if self._declared:
            head = (
                f"{kind} Q({', '.join(f'${name}: {one}' for name, (one, _value) in self._declared.items())})"
            )
        elif chance.random() < 0.03:
            head = kind + chance.choice(
                (" Q($a: Int = 3, $b: Boolean = true)", " Q($id: ID!)", " @skip(if: true)")
            )
        elif chance.random() < 0.03:
            tail = chance.choice(
                (" fragment F on Position { id ...F }", " fragment G on Query { viewer { id } }")
            )
        return f"{head} {{ {inner} }}{tail}"

    def _field(self, parent: Any, depth: int) -> str:
        chance = self.random
        name = chance.choice(list(parent.fields)) if chance.random() < 0.98 else "__typename"
        if name == "__typename":
            return name
        field = parent.fields[name]
        wanted = [
            f"{key}: {self._given(argument.type)}"
            for key, argument in field.args.items()
            if is_required_argument(argument) or chance.random() < 0.25
        ]
        arguments = f"({', '.join(wanted)})" if wanted else ""
        self._number += 1
        # Fields of one name and different arguments exclude each other.
        named = get_named_type(field.type)
        often = 0.9 if arguments or not is_leaf_type(named) else 0.2
        alias = f"a{self._number}: " if chance.random() < often else ""
        switch = chance.choice((" @skip(if: false)", " @include(if: true)")) if chance.random() < 0.05 else ""
        if is_leaf_type(named):
            return f"{alias}{name}{arguments}{switch}"
        fields = getattr(named, "fields", None)
        if not fields or depth <= 0:
            return f"{alias}{name}{arguments}{switch} {{ __typename }}"
        inner = " ".join(self._field(named, depth - 1) for _ in range(chance.randint(1, 3)))
        return f"{alias}{name}{arguments}{switch} {{ {inner} }}"

    def _given(self, given: Any) -> str:
        """A literal, or a variable of the type with a value that is mostly of it."""
        if self.random.random() < 0.8:
            return self._literal(given, 3)
        name = f"v{len(self._declared)}"
        self._declared[name] = (given, self._typed(given, 3))
        return f"${name}"

    def _typed(self, given: Any, depth: int) -> Any:
        chance = self.random
        if isinstance(given, GraphQLNonNull):
            return self._typed(given.of_type, depth)
        if chance.random() < 0.05:
            return self._value()
        if isinstance(given, GraphQLList):
            return [self._typed(given.of_type, depth) for _ in range(chance.randint(0, 3))]
        if isinstance(given, GraphQLEnumType):
            return chance.choice(list(given.values))
        if isinstance(given, GraphQLInputObjectType):
            return {
                name: self._typed(item.type, depth - 1)
                for name, item in given.fields.items()
                if is_required_input_field(item) or (depth > 0 and chance.random() < 0.3)
            }
        try:
            return json.loads(self._scalar(given.name))
        except ValueError:
            return {}

    def _literal(self, given: Any, depth: int) -> str:
        chance = self.random
        if isinstance(given, GraphQLNonNull):
            return self._literal(given.of_type, depth)
        if chance.random() < 0.01:
            return chance.choice(("null", "$a", "$nothing", "{}", "[]", '"x"', "7", "1e999999999", "ENUM"))
        if isinstance(given, GraphQLList):
            return f"[{', '.join(self._literal(given.of_type, depth) for _ in range(chance.randint(0, 3)))}]"
        if isinstance(given, GraphQLEnumType):
            return chance.choice(list(given.values))
        if isinstance(given, GraphQLInputObjectType):
            some = [
                f"{name}: {self._literal(item.type, depth - 1)}"
                for name, item in given.fields.items()
                if is_required_input_field(item) or (depth > 0 and chance.random() < 0.3)
            ]
            return "{" + ", ".join(some) + "}"
        return self._scalar(given.name)

    def _scalar(self, name: str) -> str:
        chance = self.random
        if name in {"Int", "Long"}:
            return str(chance.randint(1, 60) if chance.random() < 0.9 else chance.choice(NUMBERS))
        if name == "Boolean":
            return chance.choice(("true", "false"))
        if name == "ID":
            return json.dumps(chance.choice(self._ids) if chance.random() < 0.7 else chance.choice(TEXTS))
        if name == "Decimal":
            return json.dumps(chance.choice(AMOUNTS if chance.random() < 0.2 else AMOUNTS[:3]))
        if name == "DateTime":
            return json.dumps(chance.choice(TIMES if chance.random() < 0.2 else TIMES[:1]))
        if name == "JSONObject":
            return chance.choice(("{}", "{a: 1}", "{a: {b: [1, 2.5, null]}}", '{a: "😀"}'))
        return json.dumps(chance.choice((*TEXTS, "USD", "escrow", "Europe/Paris")))

    def _value(self, depth: int = 3) -> Any:
        chance = self.random
        kind = chance.randint(0, 7 if depth else 5)
        if kind == 6:
            return [self._value(depth - 1) for _ in range(chance.randint(0, 3))]
        if kind == 7:
            return {chance.choice(TEXTS): self._value(depth - 1) for _ in range(chance.randint(0, 3))}
        return (None, True, chance.choice(NUMBERS), 1.5, chance.choice(TEXTS), chance.choice(self._ids))[kind]

    def _scratched(self, text: str) -> str:
        """With something taken out, put in, or doubled."""
        chance = self.random
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(text) + 1)
            what = chance.randint(0, 3)
            if what == 0:
                text = text[:place] + text[place + chance.randint(1, 9) :]
            elif what == 1:
                text = (
                    text[:place]
                    + chance.choice((*string.punctuation, "\\u0000", "\ud800", "é", "9" * 50))
                    + text[place:]
                )
            elif what == 2:
                text = text[:place] + text[place : place + 20] * chance.randint(2, 30) + text[place:]
            else:
                text = (
                    text[:place] + chance.choice(("{", "}", "...", '"', "\\", "$", "@x", "#")) + text[place:]
                )
        return text[:20_000]

    def _quoted(self, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return quote(text[:4000].encode("utf-8", "replace"))

    def _bytes(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randint(1, most))
