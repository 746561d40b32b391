"""How the command line reads settings and tells what went wrong: one line that says how to mend it."""

import sys
from collections.abc import Callable
from typing import TypeVar

import asyncpg
import click
from pydantic import ValidationError

from app.errors import AppError
from app.settings import Settings
from app.storage.embedded import EmbeddedError
from app.storage.provide import NoDatabaseUrlError

T = TypeVar("T")


class Fault(click.ClickException):
    """Something the operator can mend; the message says how."""


def unusable(error: OSError, path: object) -> Fault:
    """What is told of a file or folder that cannot be made, read or written."""
    words = error.strerror or type(error).__name__
    return Fault(
        f"{path} cannot be used ({words}): name a place that can be written; for what a server keeps, DATA_DIR"
    )


def settings_of(**changes: object) -> Settings:
    """The settings of the environment with `changes` (those that are not None)."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)
        ]
        raise Fault("the settings cannot be used:\n  " + "\n  ".join(lines)) from None


def guarded(work: Callable[[], T]) -> T:
    """What `work` returns; expected failures become a `Fault`, Ctrl-C an exit."""
    try:
        return work()
    except KeyboardInterrupt:
        sys.exit(130)
    except (EmbeddedError, NoDatabaseUrlError, AppError) as error:
        raise Fault(str(error)) from None
    except asyncpg.UndefinedTableError:
        raise Fault("the database has no ledger of this version: run `escrowgrid migrate`") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Fault(f"the database refused: {error}") from None
    except OSError as error:
        if error.filename is not None:
            raise unusable(error, error.filename) from None
        raise Fault(f"the database cannot be reached: {error}") from None
