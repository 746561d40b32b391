"""`escrowgrid documents`: add, list and remove trusted documents, beside a running server or without one."""

import getpass
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from app import schema
from app.documents import store
from app.documents.model import LENGTH_MAX, Listed, hash_in, hash_of
from app.engine.limits import Judge
from app.faults import Fault
from app.settings import Settings
from app.storage.beside import beside
from app.storage.database import DatabaseRole, Driver

SHOWN_MAX = 60


def add(settings: Settings, files: Sequence[Path]) -> None:
    """Add the documents of files; all of them, or none when one could not run."""
    texts = {hash_of(text): text for file in files for text in _documents(file)}
    _check(settings, texts.values())
    by = getpass.getuser()

    async def work(driver: Driver) -> list[bool]:
        return [await store.add(driver, key, text, by) for key, text in texts.items()]

    for (key, text), added in zip(texts.items(), beside(settings, DatabaseRole.WRITER, work), strict=True):
        click.echo(f"sha256:{key}  {'added' if added else 'was there'}  {_shown(text)}")


def listing(settings: Settings) -> None:
    """Print every document's id, and how it begins."""

    async def work(driver: Driver) -> list[Listed]:
        return await store.every(driver)

    for one in beside(settings, DatabaseRole.FEED, work):
        added = f"{one.added_at:%Y-%m-%d %H:%M}Z by {one.added_by}"
        click.echo(f"sha256:{one.hash}  {added}  {_shown(one.document)}")


def remove(settings: Settings, id: str) -> None:
    """Remove a document; every process refuses it within seconds."""
    wanted = hash_in(id)
    if wanted is None:
        raise Fault("a document's id is sha256:<64 hex digits>, as `escrowgrid documents list` shows it")

    async def work(driver: Driver) -> bool:
        return await store.remove(driver, wanted)

    if not beside(settings, DatabaseRole.WRITER, work):
        raise Fault(f"there is no document sha256:{wanted}")
    click.echo(f"sha256:{wanted} is removed.")


def _documents(file: Path) -> Sequence[str]:
    """One document, as it stands; or those of a JSON manifest, by the hashes that clients will ask for."""
    try:
        text = file.read_bytes().decode()
        return _manifest(text) if file.suffix == ".json" else [text]
    except (OSError, ValueError) as error:
        raise Fault(f"{file}: {error}") from None


def _manifest(text: str) -> list[str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a manifest is an object of documents by their sha-256")  # noqa: TRY004 - told to its author
    if isinstance(operations := found.get("operations"), list):
        # As Apollo's tools write it.
        found = {str(one.get("id")): one.get("body") for one in operations if isinstance(one, dict)}
    for key, document in found.items():
        if not isinstance(document, str) or hash_in(key) != hash_of(document):
            raise ValueError(f"{key} is not the sha-256 of its document")
    return list(found.values())


def _check(settings: Settings, texts: Iterable[str]) -> None:
    """Whatever a server would refuse is refused here, where somebody can mend it."""
    judge = Judge(settings)
    core = schema.build(settings)._schema
    mistakes: list[str] = []
    for text in texts:
        if len(text) > LENGTH_MAX:
            mistakes.append(f"{_shown(text)}: it has more than {LENGTH_MAX} characters")
        mistakes += [f"{_shown(text)}: {error.message}" for error in judge.mistakes(core, text)]
    if mistakes:
        raise Fault("nothing was added:\n  " + "\n  ".join(mistakes))


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_MAX else f"{words[: SHOWN_MAX - 1]}…"
