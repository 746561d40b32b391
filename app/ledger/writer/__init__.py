"""The one way into the ledger: commands that arrive together are locked, decided and committed together."""

from app.ledger.writer.contract import Accepted, Answer, Command, Decision, Listed, Subject, View
from app.ledger.writer.keys import LIST_TAKEN
from app.ledger.writer.writer import Writer

__all__ = ["LIST_TAKEN", "Accepted", "Answer", "Command", "Decision", "Listed", "Subject", "View", "Writer"]
