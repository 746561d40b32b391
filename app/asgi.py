"""The one module-level application, for ASGI servers: `uvicorn app.asgi:app`."""

import atexit
from contextlib import ExitStack

from app.http import noise
from app.http.server import settle_memory
from app.main import create_app
from app.settings import Settings
from app.storage.provide import provide

_stack = ExitStack()
atexit.register(_stack.close)
_settings = Settings()
app = create_app(_settings, _stack.enter_context(provide(_settings)))
settle_memory()
noise.sample()
