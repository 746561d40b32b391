"""What a resolver may reach: who asks, the long-lived parts of the server, and one snapshot with its loaders."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, cached_property, partial
from typing import Any, TypeVar

import strawberry
from sqlalchemy.ext.asyncio import AsyncConnection
from strawberry.dataloader import DataLoader
from strawberry.permission import BasePermission
from strawberry.types import Info as StrawberryInfo

from app.audit.model import Action, AuditEntry, Outcome
from app.audit.service import Work
from app.engine.connection import page_request
from app.engine.failures import UserError
from app.engine.limits import Bill, Toll
from app.errors import ErrorCode, Forbidden, Invalid, NotFound, Refusal, Unknown
from app.kit.ids import is_id
from app.ledger.bell import Topic
from app.ledger.replica import Freshness
from app.personal.service import Holders
from app.principal import Principal, Scope, lack_of
from app.services import Request, Services
from app.storage.paging import PageRequest
from app.storage.snapshot import Snapshot
from app.storage.statements import Meter

__all__ = ["Context", "Info", "Request", "Services", "may", "only_institution"]

K = TypeVar("K")
V = TypeVar("V")
P = TypeVar("P")

# A loader answers for many keys at once: (context, keys, the field's arguments) → a value for each key it knows.
Loader = Callable[..., Awaitable[Mapping[Any, Any]]]


def _noted(asked: "asyncio.Future[Any]") -> None:
    """Its failure has been told to whoever waits; where nobody does any more, nobody is left to be told."""
    if not asked.cancelled():
        asked.exception()


class Context:
    """One operation's reach. Made anew for each operation, also on a shared socket."""

    def __init__(self, services: Services, principal: Principal | None, request: Request) -> None:
        self.services = services
        self.request = request
        # What runs, once its document is parsed, and how far in the ledger a subscription has told of it.
        self.operation_kind = ""
        self.operation_name = ""
        self.document_hash = ""
        # For the request log: what its statements read, what it was charged, by which codes it was refused or failed.
        self.meter = Meter()
        self.cost: int | None = None
        self.refusals: list[str] = []
        self.failures: list[str] = []
        # What it costs, and who takes the payment before it runs; nobody where no transport is between.
        self.bill: Bill | None = None
        self.toll: Toll | None = None
        self.last_cursor: str | None = None
        # Of a subscription: how far its messages have been taken, how far the one being taken goes, where to go on.
        self.position: int | None = None
        self.telling: int | None = None
        self.resume_at: str | None = None
        self._principal = principal
        # How old the answer of a query may be; None when it has to be of now.
        self.freshness: Freshness | None = None
        self.snapshot = Snapshot(self._begin)
        self._loaders: dict[tuple[Loader, tuple[Any, ...]], DataLoader[Any, Any]] = {}
        # The root field under way, for the audit; mutations run one after the other.
        self.root_field = ""
        self._forbidden: set[str] = set()

    @cached_property
    def level(self) -> asyncio.Event:
        """Set while there is nothing to tell a subscription; live groups have one of their own."""
        return asyncio.Event()

    @property
    def principal(self) -> Principal:
        """Who asks; raises `Unknown` when nobody that is known does."""
        if self._principal is None:
            raise Unknown("send a valid key: Authorization: Bearer <key>")
        return self._principal

    @property
    def scope(self) -> str:
        """The first argument of every store function: the asker's institution, or * for root."""
        return self.principal.tenant

    @property
    def holders(self) -> Holders:
        """What opens the names of holders in what is read."""
        return self.services.holders

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """The operation's snapshot, for one service call."""
        return self.snapshot.connection()

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        """A snapshot on the primary; of a query that may be older, on the replica when it is fresh enough."""
        scope = self._principal.tenant if self._principal else ""
        replica, freshness = self.services.replica, self.freshness
        async with AsyncExitStack() as stack:
            connection: AsyncConnection | None = None
            if freshness is not None and self.operation_kind == "query":
                if replica is not None:
                    connection = await stack.enter_async_context(
                        replica.reading(scope, freshness, self.meter)
                    )
                elif freshness.at_least is not None and self._principal is not None:
                    # The primary has everything; a cursor that is none is refused here as there.
                    await self.services.tail.place(scope, freshness.at_least)
            if connection is None:
                database = self.services.database
                connection = await stack.enter_async_context(database.reading(scope, self.meter))
            yield connection

    async def load(self, loader: Loader, key: K, *args: Any) -> Any:
        """`loader`'s answer for `key` (None when it knows none), asked together with every other key of this level.

        `args` are the field's own arguments (hashable); fields with equal ones are asked together.
        """
        asked = asyncio.ensure_future(self._loader_of(loader, args).load(key))
        asked.add_done_callback(_noted)
        # Shielded: graphql-core cancels what a null has made needless, and others may wait for the same answer.
        return await asyncio.shield(asked)

    async def load_all(self, loader: Loader, keys: Sequence[K]) -> Mapping[K, Any]:
        """`loader`'s answers for all the keys of a level, None where it knows none; each is asked for once."""
        each = dict.fromkeys(keys)
        asked = asyncio.ensure_future(self._loader_of(loader, ()).load_many(each))
        asked.add_done_callback(_noted)
        return dict(zip(each, await asyncio.shield(asked), strict=True))

    def _loader_of(self, loader: Loader, args: tuple[Any, ...]) -> DataLoader[Any, Any]:
        found = self._loaders.get((loader, args))
        if found is None:
            found = DataLoader(load_fn=partial(self._load_many, loader, args))
            self._loaders[loader, args] = found
        return found

    async def _load_many(self, loader: Loader, args: tuple[Any, ...], keys: Sequence[Any]) -> Sequence[Any]:
        answers = await loader(self, keys, *args)
        return [answers.get(key) for key in keys]

    async def renew(self) -> None:
        """Forget everything read: what is read from now on is as of now."""
        self._loaders.clear()
        await self.snapshot.close()

    @asynccontextmanager
    async def working(self, institution_id: str) -> AsyncIterator[Work]:
        """One ordinary transaction on one institution, committed with its audit rows when the block ends."""
        # The scope of the writer is a list: only what is spelled like one id may become one.
        if not is_id(institution_id, "inst") or not self.principal.can_see(institution_id):
            raise NotFound("institution", "institutionId")
        self.services.writer.assure()
        await self.renew()
        services, request = self.services, self.request
        async with services.database.writing(institution_id, self.meter) as connection:
            yield Work(
                connection=connection,
                actor=self.principal,
                request_id=request.id,
                client_address=request.client_address,
                operation=self.root_field,
                now=services.clock(),
                ids=services.ids,
            )
        services.tell(Topic.AUDIT)

    async def answer(
        self,
        payload: Callable[..., P],
        action: Action,
        resource_type: str,
        attempt: Callable[[], Awaitable[P]],
        *,
        institution_id: str | None = None,
        resource_id: str | None = None,
    ) -> P:
        """What `attempt` answers; or, when it is refused, a payload that says why, and a row in the audit.

        `institution_id` is the one that root works on; a tenant's refusals are its own institution's anyway.
        """
        await self.renew()
        try:
            return await attempt()
        except Refusal as refusal:
            self.note_refusal(
                action,
                resource_type,
                refusal.code,
                field=refusal.field,
                institution_id=institution_id,
                resource_id=resource_id,
            )
            return payload(user_errors=[UserError.of(refusal.problem)])

    def note_refusal(
        self,
        action: Action,
        resource_type: str,
        code: str,
        *,
        field: str | None = None,
        operation: str | None = None,
        institution_id: str | None = None,
        resource_id: str | None = None,
    ) -> None:
        """Have it written in the audit that this was asked for and refused; never waits, never fails."""
        self.refusals.append(str(code))
        if code == ErrorCode.VERSION_CONFLICT:
            action = Action.CONCURRENCY_CONFLICT
        entry = AuditEntry(
            institution_id=self.principal.institution_id or _institution(institution_id),
            actor_id=self.principal.id,
            actor_role=self.principal.role,
            operation=self.root_field if operation is None else operation,
            action=action,
            resource_type=resource_type,
            resource_id=resource_id,
            outcome=Outcome.FAILURE,
            code=str(code),
            request_id=self.request.id,
            client_address=self.request.client_address,
            payload={} if field is None else {"field": field},
        )
        self.services.recorder.offer(entry)

    def note_forbidden(self, field: str) -> None:
        """Have it written in the audit, once for each field, that this key may not reach it."""
        if field not in self._forbidden:
            self._forbidden.add(field)
            self.note_refusal(Action.AUTH_FORBIDDEN, field, Forbidden.code, operation=field)

    async def close(self) -> None:
        """Give the connection back; nothing may be read afterwards."""
        self._loaders.clear()
        await self.snapshot.end()

    def page(self, first: int | None, after: str | None, last: int | None, before: str | None) -> PageRequest:
        """The page that a list's four arguments ask for, within the limits of the settings."""
        settings = self.services.settings
        return page_request(
            first,
            after,
            last,
            before,
            size_default=settings.page_size_default,
            size_max=settings.page_size_max,
        )


Info = StrawberryInfo[Context, None]


@cache
def may(*scopes: Scope) -> type[BasePermission]:
    """The permission class of a field that needs one of `scopes`."""

    class May(BasePermission):
        message = lack_of(*scopes)

        def has_permission(self, source: Any, info: strawberry.Info, **kwargs: Any) -> bool:
            context: Context = info.context
            allowed = any(map(context.principal.may, scopes))
            if info.path.prev is None:
                context.root_field = info.field_name
            if not allowed:
                context.note_forbidden(info.field_name)
            return allowed

        def on_unauthorized(self) -> None:
            raise Forbidden(self.message)

    May.__name__ = "_or_".join(["May", *(scope.name for scope in scopes)])
    return May


def _institution(institution_id: str | None) -> str | None:
    return institution_id if institution_id is not None and is_id(institution_id, "inst") else None


def only_institution(context: Context, institution_id: str | None) -> str:
    """The institution that is meant: the one named, else the asker's own; refuses root who names none.

    Whether it is there for the asker is found out by whoever reads or works on it.
    """
    found = institution_id if institution_id is not None else context.principal.institution_id
    if found is None:
        raise Invalid("as root, name the institution", "institutionId")
    return found
