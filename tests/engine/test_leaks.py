"""What guards a field guards it in plans, too: nothing that is guarded is read as a plain attribute, nor directly."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
import strawberry
from strawberry import ExceptionHandler
from strawberry.extensions import FieldExtension, SchemaExtension
from strawberry.permission import BasePermission, PermissionExtension
from strawberry.schema.config import StrawberryConfig
from strawberry.types.field import StrawberryField

from app.engine.compiled import Compiled, Plans
from app.engine.direct import METADATA, Direct, Wanted
from app.engine.loaded import METADATA as LOADED
from app.engine.loaded import Loaded

SECRET = "the attribute itself"


class Never(BasePermission):
    message = "never"

    def has_permission(self, source: Any, info: strawberry.Info, **kwargs: Any) -> bool:
        return False


class NotNow(BasePermission):
    message = "not now"

    async def has_permission(self, source: Any, info: strawberry.Info, **kwargs: Any) -> bool:
        return False


class Always(BasePermission):
    def has_permission(self, source: Any, info: strawberry.Info, **kwargs: Any) -> bool:
        return True


class Veil(FieldExtension):
    def resolve(self, next_: Callable[..., Any], source: Any, info: strawberry.Info, **kwargs: Any) -> Any:
        return f"veiled, {len(next_(source, info, **kwargs))} characters"

    async def resolve_async(
        self, next_: Callable[..., Awaitable[Any]], source: Any, info: strawberry.Info, **kwargs: Any
    ) -> Any:
        return "veiled"


class Shut(FieldExtension):
    async def resolve_async(
        self, next_: Callable[..., Awaitable[Any]], source: Any, info: strawberry.Info, **kwargs: Any
    ) -> Any:
        return None


class Guarded(StrawberryField):
    """A class of fields that does not tell what the attribute is."""

    def get_result(self, source: Any, info: Any, args: Any, kwargs: Any) -> Any:
        return "guarded"


class Straight(Direct):
    """Would tell everything, guarded or not."""

    def __init__(self) -> None:
        self.asked = 0

    def takes(self, arguments: Mapping[str, Any], wanted: tuple[Wanted, ...]) -> bool:
        return True

    async def read(
        self, context: Any, sources: Sequence[Any], arguments: Mapping[str, Any], wanted: tuple[Wanted, ...]
    ) -> list[Any]:
        self.asked += 1
        return [{item.key: SECRET for item in wanted} for _ in sources]


class AtOnce(Loaded):
    """Would find everything, guarded or not."""

    def __init__(self) -> None:
        self.asked = 0

    def takes(self) -> bool:
        return True

    async def read(self, context: Any, sources: Sequence[Any]) -> list[Any]:
        self.asked += 1
        return [Leaf(plain=SECRET) for _ in sources]


AT_ONCE = {name: AtOnce() for name in ("plain", "guarded", "veiled")}
STRAIGHT = {name: Straight() for name in ("plain", "guarded", "leaf")}


@strawberry.type
class Leaf:
    plain: str = "plain"
    guarded: str | None = strawberry.field(default=SECRET, permission_classes=[Never])


@strawberry.type
class Vault:
    """Each of these holds the secret as its attribute."""

    permitted: str | None = strawberry.field(default=SECRET, permission_classes=[Never])
    permitted_later: str | None = strawberry.field(default=SECRET, permission_classes=[NotNow])
    one_of_two: str | None = strawberry.field(default=SECRET, permission_classes=[Always, Never])
    silent: str | None = strawberry.field(
        default=SECRET, extensions=[PermissionExtension(permissions=[Never()], fail_silently=True)]
    )
    veiled: str | None = strawberry.field(default=SECRET, extensions=[Veil()])
    guarded: str | None = Guarded(python_name="guarded", default=SECRET)
    hidden: strawberry.Private[str] = SECRET

    @strawberry.field
    def resolved(self) -> str:
        return f"resolved, {len(self.hidden)} characters"

    @strawberry.field(permission_classes=[Never])
    def never(self, how: int = 3) -> str | None:
        return self.hidden * how

    @strawberry.field(permission_classes=[Never], metadata={METADATA: STRAIGHT["guarded"]})
    async def direct(self) -> Leaf | None:
        return Leaf(plain=SECRET)

    @strawberry.field(permission_classes=[Never], metadata={LOADED: AT_ONCE["guarded"]})
    async def loaded(self) -> Leaf | None:
        return Leaf(plain=SECRET)

    @strawberry.field(extensions=[Shut()], metadata={LOADED: AT_ONCE["veiled"]})
    async def shut(self) -> Leaf | None:
        return Leaf(plain=SECRET)

    @strawberry.field(metadata={LOADED: AT_ONCE["plain"]})
    async def at_once(self) -> Leaf:
        return Leaf()

    @strawberry.field(metadata={METADATA: STRAIGHT["leaf"]})
    async def leaf(self) -> Leaf:
        return Leaf()

    @strawberry.field(metadata={METADATA: STRAIGHT["plain"]})
    async def straight(self) -> Leaf:
        return Leaf()


@strawberry.type
class Query:
    @strawberry.field
    async def vault(self) -> Vault:
        return Vault()

    @strawberry.field
    def vaults(self) -> list[Vault]:
        return [Vault(), Vault()]


GUARDED = (
    *("permitted", "permittedLater", "oneOfTwo", "silent", "veiled", "guarded", "resolved", "never"),
    *("never(how: 1)", "direct { plain }", "leaf { guarded }", "leaf { guarded plain }"),
    *("loaded { plain }", "shut { plain }", "atOnce { guarded }"),
)


async def answers(schema: Callable[..., strawberry.Schema], document: str) -> tuple[Any, Any, Plans]:
    """graphql-core's, the plans', and what they were."""
    plans = Plans()
    slow = await schema(extensions=[]).execute(document)
    fast = await schema(extensions=[lambda: Compiled(plans)]).execute(document)
    for answer in (slow, fast):
        answer.told = json.dumps(answer.data), sorted((e.message, str(e.path)) for e in answer.errors or ())
    return slow, fast, plans


def plain(**options: Any) -> strawberry.Schema:
    return strawberry.Schema(Query, **options)


@pytest.mark.parametrize("field", GUARDED)
@pytest.mark.parametrize("root", ["vault", "vaults"])
async def test_a_guarded_field_does_not_leak(root: str, field: str) -> None:
    for asked in (field, f"__typename {field}", f"... on Vault {{ a: {field} ...F }}"):
        tail = f" fragment F on Vault {{ a: {field} }}" if "...F" in asked else ""
        slow, fast, plans = await answers(plain, f"{{ {root} {{ {asked} }} }}{tail}")
        assert SECRET not in fast.told[0]
        assert fast.told == slow.told
        assert (plans.used, plans.fallbacks) == (1, 0)
    assert STRAIGHT["guarded"].asked == STRAIGHT["leaf"].asked == 0
    assert AT_ONCE["guarded"].asked == AT_ONCE["veiled"].asked == 0


async def test_the_secret_would_be_told_by_what_is_not_guarded() -> None:
    """The plants can leak: where nothing stands before a level, it is read directly."""
    _, fast, _ = await answers(plain, "{ vault { straight { plain } } }")
    assert fast.data == {"vault": {"straight": {"plain": SECRET}}}
    assert STRAIGHT["plain"].asked == 1
    _, fast, _ = await answers(plain, "{ vaults { atOnce { plain } } }")
    assert fast.data == {"vaults": [{"atOnce": {"plain": SECRET}}] * 2}
    assert AT_ONCE["plain"].asked > 0


@strawberry.type
class Bare:
    """No guard of its own: what stands before its attributes is in the schema."""

    word: str = SECRET

    @strawberry.field
    def leaf(self) -> Leaf:
        return Leaf(plain=SECRET)


@strawberry.type
class BareQuery:
    @strawberry.field
    def bare(self) -> Bare:
        return Bare()


async def test_a_default_resolver_of_the_schema_is_asked() -> None:
    def schema(**options: Any) -> strawberry.Schema:
        config = StrawberryConfig(default_resolver=lambda source, name: f"{name} of {type(source).__name__}")
        return strawberry.Schema(BareQuery, config=config, **options)

    slow, fast, _ = await answers(schema, "{ bare { word leaf { plain } } }")
    assert fast.told == slow.told
    assert SECRET not in fast.told[0]
    strawberry.Schema(BareQuery)  # the fields keep their schema's resolver: give them back their own


class Seeing(SchemaExtension):
    """Wants to see every field being resolved."""

    async def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
        found = _next(root, info, *args, **kwargs)
        found = await found if hasattr(found, "__await__") else found
        return "seen" if found == SECRET else found


async def test_an_extension_that_hooks_resolving_leaves_it_to_graphql_core() -> None:
    plans = Plans()
    schema = strawberry.Schema(BareQuery, extensions=[Seeing, lambda: Compiled(plans)])
    answer = await schema.execute("{ bare { word leaf { plain } } }")
    assert answer.data == {"bare": {"word": "seen", "leaf": {"plain": "seen"}}}
    assert (plans.used, plans.fallbacks) == (0, 1)


class Moved(Exception):
    pass


@strawberry.type
class Refusal:
    said: str


class Broken:
    @property
    def found(self) -> Any:
        raise Moved("away")


@strawberry.type
class Shelf:
    found: Bare | Refusal


@strawberry.type
class ShelfQuery:
    @strawberry.field
    def shelf(self) -> Shelf:
        return Broken()  # type: ignore[return-value]


class Handler(ExceptionHandler[Moved, Refusal]):
    def handle(self, exception: Moved, *, field: StrawberryField, info: strawberry.Info) -> Refusal:
        return Refusal(said=f"moved {exception}")


async def test_what_an_exception_handler_makes_of_an_error_is_told() -> None:
    def schema(**options: Any) -> strawberry.Schema:
        return strawberry.Schema(ShelfQuery, exception_handlers=[Handler()], **options)

    slow, fast, plans = await answers(schema, "{ shelf { found { ... on Refusal { said } } } }")
    assert fast.told == slow.told
    assert plans.used == 1
