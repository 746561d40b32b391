"""How an operation is told to whoever traces it."""

from app.http.exchange import Ran
from app.kit.spans import Span
from app.principal import Principal

# Of a failure that is the server's; what a client did wrong fails nothing here.
OUR_OWN = ("INTERNAL", "UNAVAILABLE", "OVERLOADED")
PREFIX = "escrowgrid"


def finish(span: Span, ran: Ran, transport: str, principal: Principal | None) -> None:
    """It is over: what it was, and what came of it; no variables, no values."""
    span.rename(f"{ran.kind or 'refused'} {ran.name}".strip())
    told: dict[str, object] = {
        "graphql.operation.type": ran.kind or None,
        "graphql.operation.name": ran.name or None,
        f"{PREFIX}.document": ran.document or None,
        f"{PREFIX}.transport": transport,
        f"{PREFIX}.cost": ran.cost,
        f"{PREFIX}.rows": ran.rows,
        f"{PREFIX}.request_id": ran.request_id,
        f"{PREFIX}.key_id": None if principal is None else principal.id,
        f"{PREFIX}.role": None if principal is None else str(principal.role),
        f"{PREFIX}.institution_id": None if principal is None else principal.institution_id,
        f"{PREFIX}.refusals": ",".join(ran.refusals) or None,
        "error.type": ran.failures[0] if ran.failures else None,
    }
    for name, value in told.items():
        if isinstance(value, str | int):
            span.note(name, value)
    span.end(next((code for code in ran.failures if code in OUR_OWN), None))
