"""Which media type answers a request: what the Accept header prefers among what we have."""

from dataclasses import dataclass

from starlette.datastructures import Headers

from app.http.wire import GRAPHQL_TYPE, JSON_TYPE, RefusedError

EVENTS_TYPE = "text/event-stream"
HTML_TYPE = "text/html"
RANGES_MAX = 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a request is answered; `json` is the media type of single answers, if those are acceptable."""

    json: str | None
    events: bool = False
    events_first: bool = False
    html: bool = False

    @property
    def errors(self) -> str:
        """The media type of refusals."""
        return self.json or JSON_TYPE


def wanted(headers: Headers, *, page: bool) -> Wanted:
    """What the Accept header asks for; refuses with 406 when we have nothing like it.

    `page` says whether the request could be answered with the GraphiQL page.
    """
    header = ",".join(headers.getlist("accept"))
    if not header.strip():
        return Wanted(JSON_TYPE)
    ranges = _ranges(header)
    graphql, plain = _quality(ranges, GRAPHQL_TYPE), _quality(ranges, JSON_TYPE)
    # A stream and a page are only for those who name them: */* means JSON.
    events, html = ranges.get(EVENTS_TYPE, 0.0), ranges.get(HTML_TYPE, 0.0)
    best = max(graphql, plain)
    if page and html > max(best, events):
        return Wanted(None, html=True)
    if not max(best, events):
        raise RefusedError(
            406, "NOT_ACCEPTABLE", f"we answer with {GRAPHQL_TYPE}, {JSON_TYPE} or {EVENTS_TYPE}"
        )
    return Wanted(_json_type(ranges, graphql, plain), events=events > 0, events_first=events > best)


def is_for_people(headers: Headers) -> bool:
    """Whether who asks would rather read a page than JSON: a browser that was sent to an address does."""
    ranges = _ranges(",".join(headers.getlist("accept")))
    return ranges.get(HTML_TYPE, 0.0) > _quality(ranges, JSON_TYPE)


def _json_type(ranges: dict[str, float], graphql: float, plain: float) -> str | None:
    if not max(graphql, plain):
        return None
    # Equally welcome: the precise type where it is named, else the one that every client understands.
    if graphql == plain:
        return GRAPHQL_TYPE if GRAPHQL_TYPE in ranges else JSON_TYPE
    return GRAPHQL_TYPE if graphql > plain else JSON_TYPE


def _ranges(header: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in header.split(",")[:RANGES_MAX]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name:
            found[name] = max(found.get(name, 0.0), _weight(parameters))
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                weight = float(parameter[2:])
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


def _quality(ranges: dict[str, float], media_type: str) -> float:
    family = media_type.partition("/")[0]
    for name in (media_type, f"{family}/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0
