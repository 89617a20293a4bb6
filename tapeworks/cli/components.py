"""The command about components: what the workers can build."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.console import Json, out, session_of, show_json, table
from tapeworks.schemas.jobs import ComponentInfo
from tapeworks.spec.references import Kind


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(components)


def components(
    context: typer.Context,
    which: Annotated[
        str | None, typer.Argument(metavar="[KIND[/NAME]]", help="A kind, or one component: loss/focal.")
    ] = None,
    keras: Annotated[bool, typer.Option("--keras", help="List Keras' own classes too.")] = False,
    json: Json = False,
) -> None:
    """List components, or show one with its arguments."""
    kind, _, name = (which or "").partition("/")
    if kind and kind not in set(Kind):
        raise typer.BadParameter(
            f"{kind!r} is not a kind of component; expected one of {', '.join(Kind)}", param_hint="KIND"
        )
    with session_of(context).client() as client:
        if name:
            component = client.component(kind, name)
            show_json(component) if json else _show(component)
            return
        found = client.components(kind or None)
    shown = [one for one in found if keras or not one.name.startswith("keras/")]
    if json:
        show_json(shown)
        return
    rows = table("KIND", "NAME", "VERSION", "WHAT")
    for one in shown:
        rows.add_row(one.kind.value, one.name, one.version, (one.doc.strip().splitlines() or [""])[0])
    out().print(rows)
    if len(shown) < len(found):
        typer.echo(f"and {len(found) - len(shown)} of Keras' own (--keras)")


def _show(component: ComponentInfo) -> None:
    console = out()
    console.print(Text(f"{component.kind.value}/{component.name} version {component.version}", style="bold"))
    if component.doc:
        console.print(Text(component.doc.strip()))
    properties = component.config_schema.get("properties")
    required = component.config_schema.get("required")
    rows = table("ARGUMENT", "TYPE", "DEFAULT")
    for argument, schema in properties.items() if isinstance(properties, dict) else ():
        known = schema if isinstance(schema, dict) else {}
        needed = isinstance(required, list) and argument in required
        default = "required" if needed else repr(known["default"]) if "default" in known else ""
        rows.add_row(argument, _type(known), default)
    console.print(rows)
    for warning in component.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    console.print(Text(f"workers: {', '.join(component.workers) or 'none'}", style="dim"))


def _type(schema: object) -> str:
    """A property's type in a few words."""
    if not isinstance(schema, dict):
        return ""
    if "x-kind" in schema:
        return f"a {schema['x-kind']}"
    if isinstance(schema.get("anyOf"), list):
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if isinstance(schema.get("enum"), list):
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items'))}".removesuffix(" of ")
    return str(schema.get("type", schema.get("$ref", "any")))
