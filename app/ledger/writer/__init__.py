"""The one way into the ledger: commands that arrive together are locked, decided and committed together."""

from app.ledger.writer.contract import Accepted, Answer, Command, Decision, Subject, View
from app.ledger.writer.writer import Writer

__all__ = ["Accepted", "Answer", "Command", "Decision", "Subject", "View", "Writer"]
