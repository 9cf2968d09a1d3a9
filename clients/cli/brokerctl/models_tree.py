"""`brokerctl models tree`: what models are made of, and what deleting one frees."""

from __future__ import annotations

import sys

import click
from rich.text import Text
from rich.tree import Tree

from broker_client import ModelNode, ModelTree
from brokerctl.backend_steps import no_model_text
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.figures import bytes_text, counted
from brokerctl.one_line import one_line

TWINS_SHOWN = 2

LEGEND = (
    "A model that was made from one that is deleted goes on working, but cannot be made anew. "
    "No backend tells how large a shared file is: what is freed may be more than is said."
)


@click.command("tree")
@click.argument("name", required=False, default="")
@click.option("--backend", default="", metavar="NAME", help="Only of this backend.")
@asking
def tree(call: Call, name: str, backend: str) -> None:
    """Show what models are made from, or the family of the one called NAME.

    A model lies below the one that it was made from, with its size and what deleting it alone
    would free.
    """
    with call.client() as client:
        found = client.model_tree(name, backend=backend)
        backends = () if found.nodes else client.status().backends
    if call.as_json:
        print_json(found)
    elif found.nodes:
        console = call.console()
        for each in trees(found):
            console.print(each)
        if any(node.freed_at_least or node.children for node in found.nodes):
            console.print(Text(LEGEND, style="dim"))
        if found.left_out:
            more = counted(found.left_out, "model")
            console.print(Text(f"({more} more; --backend or a NAME shows fewer)", style="dim"))
    if not found.nodes:
        click.echo(f"brokerctl: {no_model_text(backends, lists_any=False)}", err=True)
        sys.exit(EXIT_SAID_NO)


def trees(found: ModelTree) -> list[Tree]:
    """One for each backend. Of models that say they were made from each other the first leads."""
    roots: dict[str, Tree] = {}
    branches: dict[tuple[str, str], Tree] = {}
    for node in found.nodes:
        root = roots.get(node.backend)
        if root is None:
            label = Text(f"on {one_line(node.backend)}", style="bold")
            root = roots[node.backend] = Tree(label, highlight=False)
        above = branches.get((node.backend, node.parent))
        words = node_text(node, is_below=above is not None)
        branches[node.backend, node.name] = (above or root).add(words)
    return list(roots.values())


def node_text(node: ModelNode, *, is_below: bool) -> Text:
    """A model in one line; `is_below`: what it was made from is shown above it."""
    text = Text(one_line(node.name))
    facts = [bytes_text(node.size_bytes)] if node.size_bytes else []
    if node.size_bytes:
        facts.append(freed_text(node))
    if node.adapters:
        facts.append(counted(node.adapters, "adapter"))
    twins = [one_line(each) for each in node.twins]
    if twins:
        more = [f"{len(twins) - TWINS_SHOWN} more"] if len(twins) > TWINS_SHOWN else []
        facts.append(f"same weights as {', '.join([*twins[:TWINS_SHOWN], *more])}")
    text.append(f"  {'; '.join(facts)}" if facts else "", style="dim")
    if node.parent_missing:
        text.append(f"  ! made from {one_line(node.parent)}, which is gone", style="yellow")
    elif node.parent and not is_below:
        text.append(f"  made from {one_line(node.parent)}", style="dim")
    return text


def freed_text(node: ModelNode) -> str:
    """What deleting it alone frees."""
    if node.freed_bytes:
        return f"frees {bytes_text(node.freed_bytes)}{' or more' if node.freed_at_least else ''}"
    return "may free nothing" if node.freed_at_least else "frees nothing"
