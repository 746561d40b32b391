"""Which document is meant: the text that was sent, or a trusted one by its id; and whether it may be asked for."""

from dataclasses import replace

from app.documents.model import hash_in, hash_of
from app.documents.service import TrustedDocuments
from app.engine.masking import BAD_REQUEST, DOCUMENT_NOT_TRUSTED, ToldError, refusal
from app.errors import Unavailable
from app.http.operation import Asked
from app.settings import TrustedDocuments as Mode

ADVICE = "add it with `escrowgrid documents add`"


class Library:
    """The trusted documents, as the settings say; without any nothing is trusted."""

    def __init__(self, documents: TrustedDocuments | None, mode: Mode) -> None:
        self._documents = documents
        self._mode = mode if documents is not None or mode is Mode.ONLY else Mode.OFF

    async def meant(self, asked: Asked) -> Asked | ToldError:
        """What to run: always with its text; or why it is not run."""
        if asked.document_id is None and self._mode is not Mode.ONLY:
            return asked
        try:
            return await self._looked_up(asked)
        except Unavailable as error:
            return refusal(error.code, error.message)

    async def _looked_up(self, asked: Asked) -> Asked | ToldError:
        wanted = hash_in(asked.document_id) if asked.document_id is not None else hash_of(asked.query or "")
        if wanted is None:
            return refusal(BAD_REQUEST, "a document's id is sha256:<64 hex digits>")
        if asked.query and asked.document_id is not None and hash_of(asked.query) != wanted:
            return refusal(BAD_REQUEST, "the document's id is not the sha-256 of the `query` beside it")
        if self._mode is Mode.OFF:
            words = "documents cannot be asked for by their id here: TRUSTED_DOCUMENTS is off"
            return asked if asked.query else refusal(BAD_REQUEST, words)
        found = await self._documents.find(wanted) if self._documents is not None else None
        if found is not None:
            return replace(asked, query=found)
        if self._mode is Mode.ALLOW and asked.query:
            return asked
        what = "this document is not trusted" if asked.query else "no trusted document has this id"
        return refusal(DOCUMENT_NOT_TRUSTED, f"{what}; {ADVICE}", hash=f"sha256:{wanted}")
