"""The dashboard that is served was built from the source that is checked in."""

import hashlib

from app.http.dashboard import STATIC
from tests.serving import ROOT

SOURCE = ROOT / "frontend-examples" / "dashboard"


def test_it_is_not_older_than_its_source() -> None:
    files = [path for path in (SOURCE / "src").rglob("*") if path.is_file() and path.name != "generated.ts"]
    names = [str(path.relative_to(SOURCE).as_posix()) for path in files]
    hashed = hashlib.sha256()
    for name in sorted(["index.html", "package-lock.json", *names]):
        hashed.update(name.encode() + (SOURCE / name).read_bytes())
    assert (STATIC / "built-from.txt").read_text().strip() == hashed.hexdigest(), "run: make dashboard"


def test_its_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (SOURCE / "package-lock.json").read_text()
