"""What this machine signed last, kept beside its key: a ledger that has become less, or another one, is not signed."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

NAME = "checkpoint.last"


class LastSigned:
    """One line of JSON in the data folder for each ledger; none without a folder, as for a ledger in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, log_id: str) -> str | None:
        """The last checkpoint that was signed here for that ledger, as it was kept."""
        if self._folder is None:
            return None
        file = self._file(log_id)
        return file.read_text() if file.exists() else None

    def keep(self, log_id: str, line: str) -> None:
        """Remember this one instead."""
        if self._folder is None or not self._folder.is_dir():
            return
        # Whole, or as it was before.
        with NamedTemporaryFile("w", dir=self._folder, prefix=NAME, delete=False) as draft:
            draft.write(line + "\n")
            draft.flush()
            os.fsync(draft.fileno())
        Path(draft.name).replace(self._file(log_id))

    def forget(self, log_id: str) -> bool:
        """The ledger was restored on purpose: what was signed beyond does not count. Whether anything was kept."""
        if self._folder is None or not self._file(log_id).exists():
            return False
        self._file(log_id).unlink()
        return True

    def _file(self, log_id: str) -> Path:
        assert self._folder is not None, "there is a folder"
        return self._folder / f"{NAME}.{log_id}"
