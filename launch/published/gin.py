"""The text of a gin configuration, as data.

Of the language only what an operative configuration has is read: macros and bindings,
whose values are Python literals with references (@name, @scope/name()) and macros
(%NAME) in them.
"""

import ast
import dataclasses
import re
from typing import Any

from pipeline.errors import UserError

_BINDING = re.compile(r"(?P<name>[\w./]+)\s*=\s*(?P<value>.*)", re.DOTALL)
# Text in quotes is left alone; references and macros become texts.
_WORD = re.compile(r"""('[^']*'|"[^"]*")|([@%][\w./]+(?:\(\))?)""")


@dataclasses.dataclass
class Gin:
    """Bindings by name, such as `scope/Module.argument`; macros by theirs.

    Values are Python's, with references as texts that begin with @. What was looked at
    is remembered, so that what nobody knows can be told.
    """

    values: dict[str, Any]
    seen: set[str] = dataclasses.field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> Any:
        """A value, with its macros replaced.

        Raises:
          UserError: if there is none.
        """
        if name not in self.values:
            raise UserError(f"the checkpoint's configuration lacks {name}")
        self.seen.add(name)
        return self._resolved(self.values[name])

    def unseen(self) -> list[str]:
        """Names of bindings that nobody has looked at."""
        return sorted(set(self.values) - self.seen)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("%"):
            return self.get(value[1:])
        if isinstance(value, dict):
            return {key: self._resolved(x) for key, x in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._resolved(x) for x in value)
        return value


def parse(text: str) -> Gin:
    """Reads a configuration.

    Raises:
      UserError: if it is not one.
    """
    values = {}
    for statement in _statements(text):
        match = _BINDING.fullmatch(statement)
        if match is None:
            raise UserError(f"not a gin binding: {statement.splitlines()[0]!r}")
        literal = _WORD.sub(
            lambda m: m[1] or repr(m[2]), match["value"].replace("\\\n", "\n")
        )
        try:
            values[match["name"]] = ast.literal_eval(literal.strip())
        # The last two of what is nested without end.
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise UserError(f"{match['name']} has no value that is known") from error
    return Gin(values)


def _statements(text: str) -> list[str]:
    """Statements without comments; a line that is indented goes on."""
    statements: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace() and statements:
            statements[-1] += "\n" + line
        else:
            statements.append(line)
    return statements
