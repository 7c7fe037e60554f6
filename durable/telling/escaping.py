"""Text that is safe to look at: no control character reaches a screen as it is.

Ids, messages and values come from a database that others write to.
"""

from __future__ import annotations


def escape(text: str) -> str:
    """Make a text printable on one line: control characters become backslash escapes.

    Characters that reverse the writing direction or have no shape count as control
    characters; letters of all languages do not.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _spell(character)
        for character in text
    )


def _spell(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def escape_lines(text: str) -> list[str]:
    """Make a text of several lines printable, line by line."""
    return [escape(line.expandtabs(4)) for line in text.split("\n")]


def escape_json(text: str) -> str:
    """Escape what `escape` would, in a way that stays the same JSON.

    Outside of strings JSON holds nothing that would be escaped, but line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else _spell_json(character)
        for character in text
    )


def _spell_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{units[index]:02x}{units[index + 1]:02x}"
        for index in range(0, len(units), 2)
    )
