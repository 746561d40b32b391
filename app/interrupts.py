"""Ctrl-C that is not lost on the way: until a server listens, whatever swallowed it, the server ends all the same."""

import signal
from types import FrameType, TracebackType


class Interrupts:
    """Remembers Ctrl-C from its beginning to its end.

    Python drops an interrupt that meets it in a destructor or in a callback of its import machinery, and an awaited
    call that is over in the same moment can take the cancellation for its own. Then a server would start that was told
    to end.
    """

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` when it was pressed already."""
        if self._pressed:
            raise KeyboardInterrupt

    def _press(self, sign: int, frame: FrameType | None) -> None:
        self._pressed = True
        signal.default_int_handler(sign, frame)
