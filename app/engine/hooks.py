"""Runs the hooks of schema extensions as Strawberry does, without finding out anew for each operation what they are."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, cast

from strawberry.extensions import SchemaExtension
from strawberry.extensions.context import (
    ExecutingContextManager,
    ExtensionContextManagerBase,
    OperationContextManager,
    ParsingContextManager,
    ValidationContextManager,
)
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.types import ExecutionContext

Hook = Callable[..., Any]

HOOKS_MAX = 64


@lru_cache(maxsize=HOOKS_MAX)
def _hooks(
    classes: tuple[type[SchemaExtension], ...], name: str
) -> tuple[tuple[int, Hook, bool], ...] | None:
    """The place, function and kind of each hook that does anything; None when one is no generator."""
    found = []
    nothing = getattr(SchemaExtension, name)
    for place, cls in enumerate(classes):
        hook = getattr(cls, name)
        if hook is nothing or hook is None:
            continue
        is_async = inspect.isasyncgenfunction(hook)
        if not is_async and not inspect.isgeneratorfunction(hook):
            return None
        found.append((place, hook, is_async))
    return tuple(found)


class _Phase:
    """One step of an operation: every hook up to its `yield`, and in the opposite order what follows it."""

    __slots__ = ("_extensions", "_hooks", "_running")

    def __init__(self, extensions: list[SchemaExtension], hooks: tuple[tuple[int, Hook, bool], ...]) -> None:
        self._extensions = extensions
        self._hooks = hooks
        self._running: list[tuple[Any, bool]] = []

    async def __aenter__(self) -> None:
        for place, hook, is_async in self._hooks:
            running: Any = hook(self._extensions[place])
            try:
                if is_async:
                    await anext(running)
                else:
                    next(running)
            except BaseException:
                for begun, was_async in reversed(self._running):
                    await begun.aclose() if was_async else begun.close()
                raise
            self._running.append((running, is_async))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        raised = error
        while self._running:
            running, is_async = self._running.pop()
            try:
                await _finish(running, raised, is_async=is_async)
            except BaseException as other:  # noqa: BLE001 - raised again below, once every hook has been told
                raised = other
            else:
                raised = None
        if raised is None:
            return error is not None
        if raised is error:
            return False
        raise raised


async def _finish(running: Any, error: BaseException | None, *, is_async: bool) -> None:
    """The rest of a hook; raises what it raises, and `error` unless the hook swallows it."""
    over = StopAsyncIteration if is_async else StopIteration
    try:
        if error is None:
            await anext(running) if is_async else next(running)
        elif is_async:
            await running.athrow(error)
        else:
            running.throw(error)
    except over:
        return
    raise RuntimeError("a hook yields once")


class HooksRunner(SchemaExtensionsRunner):
    """One operation's; hooks of another shape are left to Strawberry."""

    def __init__(
        self, execution_context: ExecutionContext, extensions: list[SchemaExtension] | None = None
    ) -> None:
        super().__init__(execution_context, extensions)
        self._classes = tuple(map(type, self.extensions))

    def operation(self) -> OperationContextManager:
        """Around the whole."""
        return cast("OperationContextManager", self._phase(OperationContextManager))

    def parsing(self) -> ParsingContextManager:
        """Around parsing."""
        return cast("ParsingContextManager", self._phase(ParsingContextManager))

    def validation(self) -> ValidationContextManager:
        """Around validation."""
        return cast("ValidationContextManager", self._phase(ValidationContextManager))

    def executing(self) -> ExecutingContextManager:
        """Around execution."""
        return cast("ExecutingContextManager", self._phase(ExecutingContextManager))

    async def get_extensions_results(self, ctx: ExecutionContext) -> dict[str, Any]:
        """What extensions have to tell; mostly nothing."""
        if any(type(one).get_results is not SchemaExtension.get_results for one in self.extensions):
            return await super().get_extensions_results(ctx)
        return dict(ctx.extensions_results)

    def _phase(
        self, strawberrys: type[ExtensionContextManagerBase]
    ) -> "_Phase | ExtensionContextManagerBase":
        hooks = _hooks(self._classes, strawberrys.HOOK_NAME)
        return strawberrys(self.extensions) if hooks is None else _Phase(self.extensions, hooks)
