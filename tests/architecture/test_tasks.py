"""Nothing runs on its own but what was begun where its end is heard."""

import ast
from pathlib import Path

APP = Path(__file__).resolve().parents[2] / "app"

# Tasks whose maker waits for them, or looks at how they ended.
AWAITED = {
    "context.py",
    "audit/live.py",
    "http/groups.py",
    "http/live.py",
    "http/server.py",
    "http/socket.py",
    "http/sse.py",
    "identity/keyring.py",
    "institutions/authenticator.py",
    "kit/gathering.py",
    "kit/tasks.py",
    "ledger/bell.py",
    "ledger/pages.py",
    "storage/snapshot.py",
    "webhooks/courier.py",
    "webhooks/lane.py",
}


def test_a_task_that_nobody_waits_for_is_begun_where_its_end_is_heard() -> None:
    makers = {
        str(path.relative_to(APP))
        for path in APP.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"create_task", "ensure_future"}
    }
    assert makers == AWAITED, "begin it with app.kit.tasks.begin, or say here who waits for it"
