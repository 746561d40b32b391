"""Relay's words: nodes, edges, pages."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

import strawberry

from app.engine.enums import describe
from app.errors import BadRequest
from app.storage.paging import Page, PageRequest, Spelling

T = TypeVar("T")
M = TypeVar("M")

# The four arguments of every list, as resolvers declare them: `first: First = None`.
First = Annotated[int | None, strawberry.argument(description="How many rows from the start of the list.")]
After = Annotated[str | None, strawberry.argument(description="Only rows behind this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="How many rows from the end of the list.")]
Before = Annotated[str | None, strawberry.argument(description="Only rows ahead of this cursor.")]


class OrderDirection(StrEnum):
    """Which end of an order comes first."""

    ASC = "ASC"
    DESC = "DESC"


describe(
    OrderDirection,
    "Which end of an order comes first.",
    {
        OrderDirection.ASC: "The smallest or oldest first.",
        OrderDirection.DESC: "The greatest or newest first.",
    },
)


@strawberry.interface(description="Anything with an id; ids are unique across all types and institutions.")
class Node:
    """What `node(id:)` can answer."""

    id: strawberry.ID = strawberry.field(
        description="The id: a prefix that names the type, then 26 characters."
    )


@strawberry.type(description="Where a page stands in its list.")
class PageInfo:
    """Relay's page info."""

    has_next_page: bool = strawberry.field(description="Whether rows follow this page.")
    has_previous_page: bool = strawberry.field(description="Whether rows precede this page.")
    start_cursor: str | None = strawberry.field(
        description="The cursor of the first row; null on an empty page."
    )
    end_cursor: str | None = strawberry.field(
        description="The cursor of the last row: give it as `after` to go on; null on an empty page."
    )


@strawberry.type(description="One row of a list and its place.")
class Edge(Generic[T]):
    """Relay's edge."""

    cursor: str = strawberry.field(description="The place of this row: give it as `after` or `before`.")
    node: T = strawberry.field(description="The row.")


class Row(Edge[T]):
    """An edge whose cursor is spelled when it is asked for, which is seldom."""

    def __init__(self, spelling: Spelling, node: T) -> None:
        self._spelling = spelling
        self.node = node

    def __getattr__(self, name: str) -> str:
        if name != "cursor":
            raise AttributeError(name)
        return self._spelling()


@strawberry.type(description="One page of a list.")
class Connection(Generic[T]):
    """Relay's connection; the count is only made when asked for."""

    edges: list[Edge[T]] = strawberry.field(description="The rows of this page, in order.")
    page_info: PageInfo = strawberry.field(description="Where this page stands.")
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(
        description="How many rows the whole list has under its filter, at this instant.",
        metadata={"cost": 10},
    )
    async def total_count(self) -> int:
        """Counted on demand."""
        return await self.count()


def connection(page: Page[M], of: Callable[[M], T], count: Callable[[], Awaitable[int]]) -> Connection[T]:
    """The connection that a page of models makes."""
    edges: list[Edge[T]] = [Row(spelling, of(row)) for spelling, row in page.rows]
    info = PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=edges[0].cursor if edges else None,
        end_cursor=edges[-1].cursor if edges else None,
    )
    return Connection(edges=edges, page_info=info, count=count)


def page_request(
    first: int | None,
    after: str | None,
    last: int | None,
    before: str | None,
    *,
    size_default: int,
    size_max: int,
) -> PageRequest:
    """The page that Relay's four arguments ask for; refuses both ends at once and sizes out of bounds."""
    if first is not None and last is not None:
        raise BadRequest("give either `first` or `last`, not both")
    size = first if first is not None else last if last is not None else size_default
    if not 0 <= size <= size_max:
        raise BadRequest(f"a page has between 0 and {size_max} rows; ask for the rest with `after`")
    return PageRequest(size, backward=last is not None, after=after, before=before)
