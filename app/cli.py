"""Where `escrowgrid` begins: Ctrl-C counts from the first moment, while everything else is still being imported."""

import sys

from app.interrupts import Interrupts

INTERRUPTED = 130


def main() -> None:
    """The command line. Importing takes a second or more, and an interrupt that Python drops there must not be lost."""
    try:
        with Interrupts() as interrupts:
            from app.commands import main as commands
        interrupts.check()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    commands()


if __name__ == "__main__":
    main()
