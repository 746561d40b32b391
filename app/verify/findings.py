"""What verification finds, and what it has looked at."""

from collections import Counter
from dataclasses import dataclass, field

FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the ledger says: where, and what is wrong with it."""

    table: str
    row: str
    message: str

    def __str__(self) -> str:
        return f"{self.table} {self.row}: {self.message}"


@dataclass(slots=True)
class Report:
    """The first findings in the order they were met, how many there were, and how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    total: int = 0
    looked_at: Counter[str] = field(default_factory=Counter)
    # What is no fault, and should be known by who reads the report.
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether everything is as it should be."""
        return self.total == 0

    def add(self, table: str, row: object, message: str) -> None:
        """Note a finding; only the first hundred are kept."""
        self.total += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(table, str(row), message))
