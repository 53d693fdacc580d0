"""Tables that grow by registration: a file of the package adds its own entry, and so may any other package.

ENGINES["mine"] = EngineKind((".mine",), package="mine", extra="", open=MyEngine)

A package whose metadata has an entry point of the group `dualtoken.plugins` is imported when a table is first read, so
that what it registers is there in every verb and in `--help`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

from dualtoken.errors import ConfigError, unknown_name

Entry = TypeVar("Entry")

PLUGINS = "dualtoken.plugins"


class Registry(MutableMapping[str, Entry]):
    """Names to entries.

    Args:
        kind: what an entry is, in messages.
        package: whose files register themselves; each is imported when the table is first read, so they should be
            light and import what is heavy when it is used. Left out: only others add to the table.
    """

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Entry] = {}
        self._read = False

    def find(self, name: str, hint: str = "") -> Entry:
        """The entry of a name that a user gave.

        Raises:
            ConfigError: there is none; it names the nearest.
        """
        if name not in self:
            raise ConfigError(unknown_name(self.kind, name, self), hint)
        return self[name]

    def _all(self) -> dict[str, Entry]:
        if not self._read:
            self._read = True  # the files themselves may look something up
            try:
                files = importlib.import_module(self.package).__path__ if self.package else ()
                for file in pkgutil.iter_modules(files):
                    importlib.import_module(f"{self.package}.{file.name}")
                _import_plugins()
            except BaseException:
                self._read = False
                raise
        return self._entries

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package some of whose names are imported when they are first used.

    Args:
        package: `__name__` of the package.
        homes: by name the file within the package that has it.
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


@cache
def _import_plugins() -> None:
    for point in metadata.entry_points(group=PLUGINS):
        point.load()
