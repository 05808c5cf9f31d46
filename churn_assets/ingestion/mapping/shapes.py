"""Messages that are written byte for byte as a known one, so that no parser but DuckDB's has to look at them.

A producer writes the same members in the same order with the same spaces, again and again. A `Shape` is that form, learned from
one message. Where a text equals its form filled with its own values, it has no other member, none twice, no escape and no number
that DuckDB writes in another way, so its values are what any JSON parser reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from churn_assets.ingestion.json_text import Number, parsed
from churn_assets.ingestion.mapping.expressions import Path
from churn_assets.warehouse.values import literal

_MAX_LEAVES = 200
Spacing: TypeAlias = tuple[str, str]  # what stands after a name, and between two members
_COMPACT: Spacing = (":", ",")
_AS_PYTHON: Spacing = (": ", ", ")
_NOTHING = "'{}'"  # as SQL


@dataclass(frozen=True)
class Leaf:
    """A member without members: a text between quotes or null, or a number, true, false or null."""

    is_text: bool
    is_null: bool
    """Whether the message that the form was learned from has null here."""


@dataclass(frozen=True)
class Shape:
    """An object: its members by name, in their order; and of a whole message, how it is spaced."""

    members: dict[str, "Shape | Leaf"]
    spacing: Spacing = _COMPACT

    def at(self, path: Path) -> "Shape | Leaf | None":
        """The member at a path, or None."""
        found: Shape | Leaf | None = self
        for name in path:
            found = found.members.get(name) if isinstance(found, Shape) else None
        return found

    def leaves(self, begin: Path = ()) -> Iterator[tuple[Path, Leaf]]:
        """All leaves with their paths."""
        for name, member in self.members.items():
            if isinstance(member, Leaf):
                yield (*begin, name), member
            else:
                yield from member.leaves((*begin, name))

    def json_type(self) -> str:
        """The form as `from_json` wants it, every leaf as text."""
        parts = (
            f"{quoted(name)}: {quoted('VARCHAR') if isinstance(member, Leaf) else member.json_type()}"
            for name, member in self.members.items()
        )
        return f"{{{', '.join(parts)}}}"

    def is_spelled(self) -> str:
        """SQL: whether `text` has this form; `event` is what `from_json` made of it."""
        with_null, without = (
            self._object((), self.spacing, frozenset(), with_null=with_null) for with_null in (True, False)
        )
        # First the same members without a value as in the known message, which is found in half the time.
        conditions = [
            f"CASE WHEN text = {self._as_known()} THEN true WHEN contains(text, '{self.spacing[0]}null')"
            f" THEN text = {with_null} ELSE text = {without} END"
        ]
        bare = [value(path) for path, leaf in self.leaves() if not leaf.is_text]
        if bare:
            conditions += ["NOT contains(text, 'NaN')", "NOT contains(text, 'Infinity')"]
            # An object or a list, whose own members nobody has looked at.
            conditions += [f"({sql} IS NULL OR {sql} < '[' OR {sql} IN ('true', 'false'))" for sql in bare]
        return " AND ".join(conditions)

    def rest(self, begin: Path, used: frozenset[Path]) -> str:
        """SQL: the JSON of the members of the object at `begin` that are not in `used`, or NULL if there is none."""
        found = self.at(begin)
        members = found.members if isinstance(found, Shape) else {}
        with_null, without = (
            Shape(members)._object(begin, _COMPACT, used, with_null=with_null) for with_null in (True, False)
        )
        if with_null == _NOTHING:
            return "NULL"
        return (
            f"nullif(CASE WHEN contains(text, '{self.spacing[0]}null') THEN {with_null} ELSE {without} END, {_NOTHING})"
        )

    def _as_known(self) -> str:
        """SQL: the text of the known message with the values of this one."""
        fixed, parts = "", list[str]()
        for piece in self._pieces((), self.spacing):
            if isinstance(piece, str):
                fixed += piece
            else:
                parts += [literal(fixed), value(piece)]
                fixed = ""
        return f"concat({', '.join([*parts, literal(fixed)])})"

    def _pieces(self, begin: Path, spacing: Spacing) -> Iterator[str | Path]:
        """The known message: what is fixed, and the paths of its values."""
        colon, comma = spacing
        for number, (name, member) in enumerate(self.members.items()):
            path = (*begin, name)
            yield f"{comma if number else '{'}{quoted(name)}{colon}"
            if isinstance(member, Shape):
                yield from member._pieces(path, spacing)
            elif member.is_null:
                yield "null"
            else:
                yield from ('"', path, '"') if member.is_text else (path,)
        yield "}"

    def _object(self, begin: Path, spacing: Spacing, used: frozenset[Path], *, with_null: bool) -> str:
        """SQL: the object at `begin` as JSON. A member without a value is null in it or, without `with_null`, not there.

        Of the members in `used` it has none, and no object whose members were all used.
        """
        colon, comma = spacing
        parts: list[str] = []
        for name, member in self.members.items():
            path = (*begin, name)
            if path in used:
                continue
            head = f"{quoted(name)}{colon}"
            if isinstance(member, Shape):
                inner = member._object(path, spacing, used, with_null=with_null)
                if inner == _NOTHING:
                    continue
                if is_partly(path, used):
                    inner = f"nullif({inner}, {_NOTHING})"
                parts.append(f"{literal(head)} || {inner}")
                continue
            sql = f"{literal(head)} || {value(path)}"
            if member.is_text:
                sql = f"{literal(head + chr(34))} || {value(path)} || '\"'"
            parts.append(f"coalesce({sql}, {literal(f'{head}null')})" if with_null else sql)
        if not parts:
            return _NOTHING
        # Of many values one call: each || copies all that stands before it.
        if with_null:
            return f"concat('{{', {f', {literal(comma)}, '.join(parts)}, '}}')"
        return f"concat('{{', concat_ws({literal(comma)}, {', '.join(parts)}), '}}')"


def value(path: Path) -> str:
    """SQL: the text at a path of `event`."""
    return ".".join(("event", *(quoted(name) for name in path)))


def is_partly(path: Path, used: frozenset[Path]) -> bool:
    """Whether a member of the object at a path is used."""
    return any(one[: len(path)] == path for one in used)


def quoted(name: str) -> str:
    """A name between double quotes."""
    return f'"{name}"'


def shape_of(message: bytes) -> Shape | None:
    """The form of a message, or None if it is no object, has lists, or names that DuckDB takes for one; `UnreadableError`."""
    content = parsed(message)
    shape = _shape(cast("dict[str, Any]", content)) if isinstance(content, dict) else None
    if shape is None or sum(1 for _ in shape.leaves()) > _MAX_LEAVES:
        return None
    begin = f"{{{quoted(next(iter(shape.members)))}: ".encode()
    return replace(shape, spacing=_AS_PYTHON) if message.startswith(begin) else shape


def _shape(message: dict[str, Any]) -> Shape | None:
    names = list(message)
    if not names or len({name.lower() for name in names}) < len(names):
        return None
    members: dict[str, Shape | Leaf] = {}
    for name, member in message.items():
        if not name.isascii() or not name.isprintable() or '"' in name or "\\" in name or not name:
            return None
        if isinstance(member, dict):
            inner = _shape(cast("dict[str, Any]", member))
            if inner is None:
                return None
            members[name] = inner
        elif isinstance(member, list):
            return None
        else:
            members[name] = Leaf(is_text=not isinstance(member, Number | bool), is_null=member is None)
    return Shape(members)
