"""What the command line says is so, wherever it is typed."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import dev
from app.commands import main
from app.http.graphiql import DevelopmentKey
from app.interrupts import Interrupts
from app.settings import Settings
from tests.serving import free_port

KEY = DevelopmentKey("Root", "egroot_a-secret-of-the-tests")


def test_a_schema_is_not_called_drifted_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["schema", "--check"])
    assert told.exit_code == 1
    assert "there is no schema.graphql in this folder" in told.output
    assert "drifted" not in told.output
    (tmp_path / "schema.graphql").write_text("type Query\n")
    assert "drifted" in CliRunner().invoke(main, ["schema", "--check"]).output


@pytest.mark.parametrize("given", [True, False])
def test_a_made_root_key_is_printed_and_a_given_one_is_not(
    given: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROOT_API_KEY", raising=False)
    if given:
        monkeypatch.setenv("ROOT_API_KEY", KEY.key)
    asked: dict[str, bool] = {}

    def run(settings: Settings, interrupts: Interrupts, *, tell_key: bool, **_others: bool) -> None:
        asked.update(tell_key=tell_key)

    monkeypatch.setattr(dev, "run", run)
    told = CliRunner().invoke(main, ["dev", "--memory", "--port", str(free_port())])
    assert told.exit_code == 0, told.output
    assert asked == {"tell_key": not given}
    dev._greet(Settings(), None if given else KEY, demo=False, chain=False)
    said = capsys.readouterr().out
    assert (KEY.key in said) is not given
    assert re.search(r"root key  \S", said)
