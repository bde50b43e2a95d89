"""A group of commands, each imported only when it is called; `vgen --help` imports none."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command's function, and its help in one sentence."""

    target: str
    """``module:attribute``: a function, or a ``typer.Typer`` with commands of its own."""
    help: str
    context_settings: Mapping[str, Any] | None = None
    extra: str | None = None
    """The extra of the package that the command needs; without one: whichever brings what is missing."""
    usage: str = "[OPTIONS]"
    """The options' place in the usage line."""

    def load(self, name: str) -> Any:
        """The command, imported and ready to be called."""
        module, _, attribute = self.target.partition(":")
        target = getattr(import_module(module), attribute)
        holder = typer.Typer(rich_markup_mode=None)
        holder.callback()(_nothing)  # with one command alone typer makes no group
        if isinstance(target, typer.Typer):
            holder.add_typer(target, name=name)
        else:
            holder.command(name, context_settings=dict(self.context_settings or {}), options_metavar=self.usage)(target)
        group: Any = typer.main.get_command(holder)
        return group.commands[name]


def _nothing() -> None:
    return None


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each made when it is first asked for."""

    def __init__(self, table: Mapping[str, Entry]) -> None:
        self._table = table
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._table[name].load(name)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class CommandTable(TyperGroup):
    """A group that gets its commands from ``table``, which its subclass sets."""

    table: ClassVar[Mapping[str, Entry]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": {}})
        self.commands = _Commands(self.table)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the help's list of commands from the table, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.table.items()])
