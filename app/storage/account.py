"""Whom a private PostgreSQL runs as: it refuses root, so root lends it an account that reaches the folder."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from app.storage import cluster

PROBE_SECONDS_MAX = 20
PR_SET_PDEATHSIG = 1
# Nothing of ours is passed on: our environment may hold keys, and PG* variables would steer the server.
ENVIRONMENT = MappingProxyType({"PATH": os.defpath, "LC_ALL": "C"})
REACH = 'cd "$1" && exec "$2" --version'


@dataclass(frozen=True, slots=True)
class Account:
    """Ourselves, another user, or, behind a prefix, nobody in a user namespace: there the files stay ours."""

    user: int | None = None
    group: int | None = None
    prefix: tuple[str, ...] = ()

    def spawn(self, command: Sequence[str | Path], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Starts a program that ends when the calling thread does, and that no Ctrl-C of ours reaches."""
        return subprocess.Popen(  # noqa: S603 - only programs of ours
            [*self.prefix, *command],
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - two system calls, no lock
            start_new_session=True,
        )

    def run(self, command: Sequence[str | Path], seconds_max: float) -> tuple[bool, str]:
        """Runs a program to its end: whether it went well, and what it said."""
        with self.spawn(command, subprocess.PIPE) as process:
            try:
                said, _ = process.communicate(timeout=seconds_max)
            except BaseException:
                process.kill()
                raise
        return process.returncode == 0, said.decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        """Gives a file or folder to this account; the top comes last, so an interrupted change is redone."""
        user = os.geteuid() if self.user is None else self.user
        if path.lstat().st_uid == user:
            return
        group = os.getegid() if self.group is None else self.group
        for parent, folders, files in os.walk(path, topdown=False):
            for name in (*files, *folders):
                os.lchown(Path(parent, name), user, group)
        os.lchown(path, user, group)


def account_for(folder: Path) -> Account:
    """The account for this folder's server: the owner of its data, else the first that gets to everything."""
    if os.geteuid() != 0:
        return _ourselves(folder)
    postgres = cluster.binaries() / "postgres"
    troubles: list[str] = []
    for name, account in _candidates(folder):
        try:
            fine, said = account.run(["/bin/sh", "-c", REACH, "sh", folder, postgres], PROBE_SECONDS_MAX)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            fine, said = False, str(error)
        if fine:
            return account
        troubles.append(f"{name}: {said}")
    raise cluster.Unusable(
        f"PostgreSQL refuses to run as root, and no other account reaches both {folder} and {postgres}; "
        f"start as an ordinary user, or put both where everybody may pass ({'; '.join(troubles)})"
    )


def _ourselves(folder: Path) -> Account:
    data = cluster.data_directory(folder)
    if data.exists() and (owner := data.stat().st_uid) != os.geteuid():
        raise cluster.Unusable(
            f"{data} belongs to user {owner}: start as that user or as root, or choose another folder"
        )
    return Account()


def _candidates(folder: Path) -> list[tuple[str, Account]]:
    """Root's choices in order; made data decides, because only its owner can serve it."""
    data = cluster.data_directory(folder)
    owner = data.stat() if data.exists() else None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise cluster.Unusable("PostgreSQL refuses to run as root, and there is no user 'nobody'") from None
    as_nobody = ("nobody", Account(nobody.pw_uid, nobody.pw_gid))
    mapping = (f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    unshare = shutil.which("unshare")
    mapped = [("a user namespace", Account(prefix=(unshare, "--user", *mapping)))] if unshare else []
    if owner is None:
        return [as_nobody, *_neighbour(folder), *mapped]
    if owner.st_uid == 0:
        return mapped
    if owner.st_uid == nobody.pw_uid:
        return [as_nobody, *mapped]
    return [(f"user {owner.st_uid}", Account(owner.st_uid, owner.st_gid))]


def _neighbour(folder: Path) -> list[tuple[str, Account]]:
    """Whose place the folder lies in: a private home lets in neither nobody nor a root without privileges."""
    home = folder.parent.stat()
    try:
        name = pwd.getpwuid(home.st_uid).pw_name
    except KeyError:
        return []  # initdb wants an account with a name
    return [(name, Account(home.st_uid, home.st_gid))] if home.st_uid else []


def _end_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes a program: a parent killed outright then leaves no server."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def before_exec() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
