"""Where a rule or method was read from, and errors that name file and line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepscope.advisor.knowledge import KnowledgeError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

    import yaml

# yaml is imported where it is needed: files that were read before are not parsed again.


class Source(NamedTuple):
    """What an entry was read from."""

    file: Traversable
    text: str

    def error(self, line: int, message: str) -> KnowledgeError:
        """An error that names the place."""
        return KnowledgeError(message, str(self.file), line)

    def wrong(self, key: str, message: str, name: str = "") -> KnowledgeError:
        """An error about `name` under `key`, a path such as `when.all[0].op`."""
        begin = self.line_of(key)
        lines = self.text.splitlines()[begin - 1 :]
        offset = next((i for i, line in enumerate(lines) if name in line), 0)
        return self.error(begin + offset, f"`{key}`: {message}")

    def line_of(self, path: str) -> int:
        """The line on which the key that `path` names stands, or the nearest one above it."""
        return _line_of(self.tree(), path)

    def tree(self) -> yaml.Node | None:
        """The document with the place of every key and value in it."""
        import yaml  # noqa: PLC0415

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        node: yaml.Node | None = yaml.compose(self.text, Loader=loader)
        return node


def _line_of(node: yaml.Node | None, path: str) -> int:
    import yaml  # noqa: PLC0415

    line = 1
    for part in path.replace("[", ".[").split("."):
        if isinstance(node, yaml.SequenceNode) and part.startswith("["):
            index = part.strip("[]")
            if not index.isdigit() or int(index) >= len(node.value):
                break
            node = node.value[int(index)]
        elif isinstance(node, yaml.MappingNode):
            match = [pair for pair in node.value if pair[0].value == part]
            if not match:
                break
            line = match[0][0].start_mark.line + 1
            node = match[0][1]
        else:
            break
        line = max(line, node.start_mark.line + 1) if part.startswith("[") else line
    return int(line)
