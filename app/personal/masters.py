"""Where master keys come from: the environment, or a file that may change while servers run."""

import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.errors import Invalid, Unavailable
from app.personal.sealing import KEY_BYTES, Master
from app.settings import Settings

KEY_FILE = "personal.key"
KEY_PATTERN = re.compile(r"[0-9a-fA-F]{64}")


class Masters(ABC):
    """A provider of master keys. Another one, such as a key service's, implements these."""

    @abstractmethod
    def all(self) -> Sequence[Master]:
        """The keys in order: the first seals, every one opens."""

    @abstractmethod
    def make(self) -> None:
        """Make a first key, for a database that has none yet; a provider that cannot leaves it."""

    @abstractmethod
    def renew(self) -> None:
        """Put a new key before the others; raises `Invalid` where keys are only given."""

    def current(self) -> Master:
        """The key that seals; raises `Unavailable` when there is none."""
        found = self.all()
        if not found:
            raise Unavailable(
                "there is no master key for personal values: set PERSONAL_KEYS or PERSONAL_KEY_FILE"
            )
        return found[0]

    def named(self, id: str) -> Master:
        """The key of that id; raises `Unavailable` when it is not here."""
        found: Mapping[str, Master] = {master.id: master for master in self.all()}
        if id not in found:
            raise Unavailable(missing([id], list(found)))
        return found[id]


class GivenMasters(Masters):
    """From the settings: 64 hex digits each, by comma."""

    def __init__(self, text: str) -> None:
        self._found = masters_in(text.replace(",", "\n"), "PERSONAL_KEYS")

    def all(self) -> Sequence[Master]:
        """As they were given."""
        return self._found

    def make(self) -> None:
        """They are given, or not."""

    def renew(self) -> None:
        """Not from here."""
        raise Invalid(
            "PERSONAL_KEYS are given: put a new key before the others, and start the servers with it"
        )


class FileMasters(Masters):
    """From a file, one key a line; read again whenever it has changed."""

    def __init__(self, file: Path, *, made_here: bool = False) -> None:
        self._file = file
        self._made_here = made_here
        self._state: tuple[int, int] | None = None
        self._found: Sequence[Master] = ()

    def all(self) -> Sequence[Master]:
        """As the file has them now; none where there is no file."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return ()
        state = (found.st_mtime_ns, found.st_size)
        if state != self._state:
            self._found, self._state = masters_in(self._file.read_text(), str(self._file)), state
        return self._found

    def make(self) -> None:
        """Only where nobody named a file: one that was named is missing by mistake."""
        if self._made_here and not self._file.exists():
            self._file.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            prepend(self._file)

    def renew(self) -> None:
        """Servers that read the same file see it at once."""
        prepend(self._file)


def masters_of(settings: Settings) -> Masters:
    """The provider of the settings: keys given, else a file named, else the key file of the data folder."""
    if settings.personal_keys is not None:
        return GivenMasters(settings.personal_keys.get_secret_value())
    if settings.personal_key_file is not None:
        return FileMasters(settings.personal_key_file)
    return FileMasters(settings.data_dir / KEY_FILE, made_here=True)


def masters_in(text: str, where: str) -> Sequence[Master]:
    """The keys of a text, one a line; raises `Unavailable` for what is not one, without telling it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(KEY_PATTERN.fullmatch(line) is None for line in lines):
        raise Unavailable(f"{where}: a master key is 64 hex digits, an AES-256 key of 32 bytes")
    return [Master.of(bytes.fromhex(line)) for line in lines]


def missing(ids: Sequence[str], here: Sequence[str]) -> str:
    """What to tell an operator whose server lacks master keys."""
    have = f"this server has {', '.join(here)}" if here else "this server has none"
    return (
        f"personal values of this database are sealed under the master key {', '.join(ids)}, {have}: "
        "give it in PERSONAL_KEYS or PERSONAL_KEY_FILE"
    )


def prepend(file: Path) -> None:
    """Make a key and write it before those of `file`, which is made (0600) where there is none."""
    before = file.read_text() if file.exists() else ""
    # Written whole (and 0600, by mkstemp) before it has its name: nobody ever reads half a key.
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{os.urandom(KEY_BYTES).hex()}\n{before}")
            stream.flush()
            os.fsync(stream.fileno())
        if before:
            Path(draft).replace(file)
            return
        with suppress(FileExistsError):  # another process made it just now
            os.link(draft, file)
        Path(draft).unlink()
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
