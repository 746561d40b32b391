"""Writes docs/reference and the pictures of lifecycles: `python -m tests.docs.reference`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLScalarType,
    build_schema,
)

from app.positions.escrow import BUILT_IN
from app.positions.lifecycle import Lifecycle
from tests.docs.blocks import blocks
from tests.docs.lifecycle_picture import picture
from tests.docs.test_settings_docs import table
from tests.serving import ROOT

DOCS = ROOT / "docs"
WRITTEN = "<!-- written by python -m tests.docs.reference -->\n\n"
OPERATIONS = {"Query": "Queries", "Mutation": "Mutations", "Subscription": "Subscriptions"}


def pages() -> Mapping[Path, str]:
    """Every file that is generated, with what ought to be in it."""
    found = {
        DOCS / "reference" / "api.md": WRITTEN + api(),
        DOCS / "reference" / "settings.md": WRITTEN + settings(),
        DOCS / "reference" / "lifecycles.md": WRITTEN + lifecycles(BUILT_IN.values()),
        DOCS / "how-to" / "retainage.svg": picture(example()),
    }
    for lifecycle in BUILT_IN.values():
        found[DOCS / "reference" / f"{stem(lifecycle)}.svg"] = picture(lifecycle)
    return found


def example() -> Lifecycle:
    """The lifecycle that the how-to page defines."""
    (block,) = (b for b in blocks(DOCS / "how-to" / "write-a-lifecycle.md") if b.language == "python")
    known: dict[str, Any] = {}
    exec(block.text, known)
    (lifecycle,) = known["LIFECYCLES"].values()
    assert isinstance(lifecycle, Lifecycle)
    return lifecycle


def stem(lifecycle: Lifecycle) -> str:
    return f"{lifecycle.name}-{lifecycle.version}"


def settings() -> str:
    return (
        "# Settings\n\nSettings are environment variables. `escrowgrid settings` lists them with their present "
        f"values, secrets hidden.\n\n{table()}\n"
    )


def lifecycles(known: Iterable[Lifecycle]) -> str:
    """Each lifecycle as a picture and as a table."""
    parts = [
        "# Lifecycles\n\nGreen: money comes in. Blue: it goes to the beneficiary. Rust: it goes back to the funder.\n"
    ]
    for lifecycle in known:
        parts.append(
            f"\n## {lifecycle.name}@{lifecycle.version}\n\n{lifecycle.description}\n\n"
            f"![The stages of {lifecycle.name}@{lifecycle.version} and the ways between them]({stem(lifecycle)}.svg)\n\n"
            "| from | to | state | money | how much | guards |\n|---|---|---|---|---|---|\n"
        )
        parts += [
            f"| {', '.join(arrow.sources)} | {arrow.target} | {lifecycle.stages[arrow.target]} | {arrow.effect} "
            f"| {arrow.portion} | {', '.join(arrow.guards) or '–'} |\n"
            for arrow in lifecycle.transitions
        ]
    return "".join(parts)


def api() -> str:
    """The whole schema, from its own descriptions."""
    types = build_schema((ROOT / "schema.graphql").read_text()).type_map
    named = [
        found for name, found in sorted(types.items()) if not name.startswith("__") and name not in OPERATIONS
    ]
    parts = [
        "# The API\n\nFrom `schema.graphql`, which is the contract; GraphiQL shows the same while you type.\n"
    ]
    for name, heading in OPERATIONS.items():
        operations = types[name]
        assert isinstance(operations, GraphQLObjectType)
        parts.append(f"\n## {heading}\n")
        parts += [_operation(field, of) for field, of in operations.fields.items()]
    for heading, kinds in (
        ("Types", (GraphQLObjectType, GraphQLInterfaceType)),
        ("Inputs", (GraphQLInputObjectType,)),
    ):
        parts.append(f"\n## {heading}\n")
        parts += [_fields(of) for of in named if isinstance(of, kinds)]
    parts.append("\n## Enums\n")
    parts += [_values(of) for of in named if isinstance(of, GraphQLEnumType)]
    parts.append("\n## Scalars\n\n")
    built_in = {"String", "Int", "Float", "Boolean", "ID"}
    scalars = [of for of in named if isinstance(of, GraphQLScalarType) and of.name not in built_in]
    parts += [f"- `{of.name}`: {line(of.description)}\n" for of in scalars]
    return "".join(parts)


def _operation(name: str, field: GraphQLField) -> str:
    return (
        f"\n### {name}\n\n{line(field.description)} → `{field.type}`\n{_arguments(field.args)}{_gone(field)}"
    )


def _arguments(arguments: Mapping[str, GraphQLArgument]) -> str:
    if not arguments:
        return ""
    rows = [f"| `{name}` | `{of.type}` | {line(of.description)} |\n" for name, of in arguments.items()]
    return "\n| argument | type | |\n|---|---|---|\n" + "".join(rows)


def _fields(of: Any) -> str:
    rows = []
    for name, field in of.fields.items():
        taken = f"({', '.join(field.args)})" if getattr(field, "args", None) else ""
        rows.append(f"| `{name}{taken}` | `{field.type}` | {line(field.description)}{_gone(field)} |\n")
    return f"\n### {of.name}\n\n{line(of.description)}\n\n| field | type | |\n|---|---|---|\n{''.join(rows)}"


def _values(of: GraphQLEnumType) -> str:
    rows = [f"| `{name}` | {line(value.description)} |\n" for name, value in of.values.items()]
    return f"\n### {of.name}\n\n{line(of.description)}\n\n| value | |\n|---|---|\n{''.join(rows)}"


def _gone(field: Any) -> str:
    return f" **Deprecated**: {line(field.deprecation_reason)}" if field.deprecation_reason else ""


def line(text: str | None) -> str:
    """A description as one line of a table."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
