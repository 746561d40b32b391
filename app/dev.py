"""Runs servers: the newcomer's (database, demo and all in one process) and the operator's."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import click
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from app.demo.story import Story
from app.errors import Invalid
from app.http import server
from app.http.graphiql import DevelopmentKey
from app.interrupts import Interrupts
from app.main import create_app
from app.settings import Settings, StoreBackend
from app.storage.provide import provide, reach


def run(
    settings: Settings, interrupts: Interrupts, *, demo: bool, tell_key: bool, chain: bool = False
) -> None:
    """`escrowgrid dev`: until Ctrl-C; nothing is left running."""
    _log(settings)
    assert settings.root_api_key is not None, "dev always has a root key"
    key = DevelopmentKey("Root (sees every institution)", settings.root_api_key.get_secret_value())
    with provide(settings) as address, _chain(settings, wanted=chain) as whole:
        reach(address)
        app = create_app(whole, address, development_keys=[key], beside=Story().play if demo else None)
        greet = partial(_greet, whole, key if tell_key else None, demo=demo, chain=chain)
        _serve(app, whole, interrupts, greet)


def serve(settings: Settings, interrupts: Interrupts, workers: int) -> None:
    """`escrowgrid serve`: the store that the settings name, in one or several processes."""
    _log(settings)
    with provide(settings) as address:
        reach(address)
        if workers == 1:
            _serve(create_app(settings, address), settings, interrupts)
            return
        # Each worker reads its settings from the environment, as the application of app/asgi.py does.
        os.environ |= {
            "STORE_BACKEND": StoreBackend.POSTGRES.value,
            "DATABASE_URL": address.url,
            "DATABASE_DIRECT_URL": address.direct_url,
        }
        config = server.config("app.asgi:app", settings, workers=workers)
        interrupts.check()
        Multiprocess(config, sockets=[config.bind_socket()]).run()


@contextmanager
def _chain(settings: Settings, *, wanted: bool) -> Iterator[Settings]:
    """The settings, with those of a development chain that is running when it is wanted."""
    if not wanted:
        yield settings
        return
    if settings.chain_url is not None:
        raise Invalid("CHAIN_URL names a chain already: leave out --chain, or the setting")
    from app.anchoring.development import running

    with running() as chain:
        yield settings.model_copy(update=chain)


def _serve(
    app: Starlette, settings: Settings, interrupts: Interrupts, started: Callable[[], None] = lambda: None
) -> None:
    config = server.config(app, settings)
    # Asked once more when the server hears signals itself: making the loop imports, where one can be lost.
    serving = server.Server(config, started, interrupts.check)
    server.settle_memory()
    interrupts.check()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serving.serve())
    if not serving.started:
        raise click.ClickException("the server did not start; the log above says why")


def _log(settings: Settings) -> None:
    logging.basicConfig(stream=sys.stderr, level=settings.log_level, format="%(message)s")
    for chatty in ("uvicorn", "alembic"):
        logging.getLogger(chatty).setLevel("WARNING")
    # It tells every URL it sends to; the delivery log does, too, and to those alone who may see it.
    logging.getLogger("httpx").setLevel("WARNING")


def _greet(settings: Settings, key: DevelopmentKey | None, *, demo: bool, chain: bool) -> None:
    where = {
        StoreBackend.MEMORY: "in memory, gone at exit",
        StoreBackend.EMBEDDED: f"in {settings.data_dir}/",
        StoreBackend.POSTGRES: "where DATABASE_URL says",
    }[settings.store_backend]
    here = f"http://{settings.host}:{settings.port}"
    click.echo(f"Escrowgrid: the dashboard is on {here}/")
    click.echo(f"  GraphiQL  {here}/graphql")
    click.echo(f"  database  {where}{'; demo data that keeps moving' if demo else ''}")
    click.echo(f"  root key  {'the one that ROOT_API_KEY says' if key is None else key.key}")
    if chain and settings.chain_url is not None:
        url = settings.chain_url.get_secret_value()
        click.echo(f"  chain     a development chain on {url}, gone at exit: it proves nothing to anybody")
        click.echo(f"  contract  {settings.chain_contract} on chain {settings.chain_id}")
    click.echo("  Ctrl-C ends everything.")
