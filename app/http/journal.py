"""The request log: a line of JSON for each operation, and one for each socket and each request that ran none."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from app.http.exchange import Exchange, Ran
from app.http.wire import encode

log = logging.getLogger("escrowgrid.access")

OK, REFUSED, FAILED = "OK", "REFUSED", "FAILED"
SOCKET = "WS"
CLIENT_ERROR, NO_HTTP = 400, 600


def tell_request(known: Exchange, method: str, status: int, seconds: float) -> None:
    """A request was answered, with all that is known of what it ran; or a socket is closed, with its sums."""
    if not log.isEnabledFor(logging.INFO):
        return
    ran = known.ran
    told = {} if ran is None else _told(ran)
    failed = bool(known.error_codes) or CLIENT_ERROR <= status < NO_HTTP
    outcome = None if method == SOCKET else _outcome(ran, failed=failed)
    sums = {"status": status, "cost": known.cost, "rows": known.rows, "operations": known.operations}
    _write(known, method, seconds, {**sums, **told, "outcome": outcome, "errors": known.error_codes})


def tell_operation(known: Exchange, ran: Ran, seconds: float) -> None:
    """One operation of a socket is over."""
    if not log.isEnabledFor(logging.INFO):
        return
    told = {**_told(ran), "outcome": _outcome(ran, failed=bool(ran.failures)), "errors": ran.failures}
    _write(known, SOCKET, seconds, told)


def _told(ran: Ran) -> Mapping[str, object]:
    told = {
        "kind": ran.kind or None,
        "operation": ran.name or None,
        "document": ran.document or None,
        "cost": ran.cost,
        "rows": ran.rows,
        "refusals": ran.refusals,
        "request_id": ran.request_id,
    }
    return told if ran.trace_id is None else {**told, "trace_id": ran.trace_id}


def _outcome(ran: Ran | None, *, failed: bool) -> str:
    if failed:
        return FAILED
    return REFUSED if ran is not None and ran.refusals else OK


def _write(known: Exchange, method: str, seconds: float, more: Mapping[str, object]) -> None:
    principal = known.principal
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "duration_ms": round(seconds * 1000, 2),
        "status": None,
        "method": method,
        "path": known.path,
        "kind": None,
        "operation": None,
        "document": None,
        "cost": None,
        "rows": None,
        "operations": None,
        "outcome": None,
        "refusals": (),
        "errors": (),
        "key_id": principal.id if principal is not None else None,
        "role": principal.role if principal is not None else None,
        "institution_id": principal.institution_id if principal is not None else None,
        "request_id": known.request_id,
        "client": known.client_address,
    }
    log.info(encode({**line, **more}).decode())
