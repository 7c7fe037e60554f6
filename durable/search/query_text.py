"""The text of a query, as Temporal has it: `customer = 'ann' AND StartTime > '...'`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from durable import limits
from durable.errors import InvalidOptionError, QuerySyntaxError
from durable.search.conditions import All, Condition, Field, Not, OneOf, check_condition
from durable.search.kinds import AttributeKind
from durable.search.orders import Order, order_by
from durable.search.run_fields import ATTRIBUTE_FIELDS, RUN_FIELDS, Run, name_of
from durable.suggestions import closest

T = TypeVar("T")

_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<quoted>`[^`]*`)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign><=|>=|!=|<>|[=<>(),])
    | (?P<end>$)
    )""",
    re.VERBOSE,
)
_COMPARISONS: Final = frozenset({"=", "!=", "<>", "<", "<=", ">", ">="})
_RESERVED: Final = frozenset(
    {
        "AND",
        "OR",
        "NOT",
        "BETWEEN",
        "IN",
        "IS",
        "NULL",
        "STARTS_WITH",
        "ORDER",
        "BY",
        "ASC",
        "DESC",
        "TRUE",
        "FALSE",
    }
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "word" else ""


class ParsedQuery(NamedTuple):
    """What a text asks for; `where` is None for all runs."""

    where: Condition | None
    order: Order


def parse(text: str, kinds: Mapping[str, str]) -> ParsedQuery:
    """Read the text of a query.

    Args:
        text: the query; keywords may be of any case, names are as they are.
        kinds: the kind of each attribute that the namespace knows.

    Raises:
        QuerySyntaxError: it is none; the error says where.
    """
    if len(text) > limits.QUERY_CHARS_MAX:
        raise QuerySyntaxError(
            f"The query has {len(text):,} characters, at most"
            f" {limits.QUERY_CHARS_MAX:,} are read."
        )
    return _Parser(text, kinds).parse()


class _Parser:
    def __init__(self, text: str, kinds: Mapping[str, str]) -> None:
        self._text = text
        self._kinds = kinds
        self._tokens = self._split(text)
        self._next = 0
        self._depth = 0

    def _split(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while not tokens or tokens[-1].kind != "end":
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                what = "a text that has no end" if text[at] in "'\"`" else text[at]
                raise self._fault(at, f"found {what!r}" if what == text[at] else what)
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
        return tokens

    def _fault(
        self, at: int, what: str, expected: str = "", hint: str | None = None
    ) -> QuerySyntaxError:
        wanted = f", expected {expected}" if expected else ""
        # From there on; at the end there is only what stands before it.
        excerpt = self._text[at : at + 24] or self._text[max(0, at - 24) :]
        error = QuerySyntaxError(
            f"The query cannot be read at character {at + 1}, near {excerpt!r}:"
            f" {what}{wanted}{'' if what.endswith('?') else '.'}",
            hint=hint,
        )
        error.position = at + 1
        return error

    def _unexpected(self, expected: str) -> QuerySyntaxError:
        token = self._here
        what = "it ends" if token.kind == "end" else f"found {token.text!r}"
        return self._fault(token.at, what, expected)

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._here
        self._next += 1
        return token

    def _takes(self, *words: str) -> bool:
        """Go past these keywords or signs if they are what comes."""
        found = self._tokens[self._next : self._next + len(words)]
        if [token.word or token.text for token in found] != list(words) or any(
            token.kind in ("text", "quoted") for token in found
        ):
            return False
        self._next += len(words)
        return True

    def _require(self, *words: str) -> None:
        for word in words:
            if not self._takes(word):
                raise self._unexpected(word)

    # --- the grammar ------------------------------------------------------------------

    def parse(self) -> ParsedQuery:
        where = None
        if self._here.kind != "end" and self._here.word != "ORDER":
            where = self._any()
        order = Order()
        if self._takes("ORDER"):
            self._require("BY")
            order = self._order()
        if self._here.kind != "end":
            raise self._unexpected("AND, OR, ORDER BY or the end")
        if where is not None:
            where = self._checked(0, lambda: check_condition(where))
        return ParsedQuery(where, order)

    def _order(self) -> Order:
        token = self._take()
        name = token.text.strip("`")
        is_descending = not self._takes("ASC")
        if is_descending:
            self._takes("DESC")
        return self._checked(token.at, lambda: order_by(name, descending=is_descending))

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._takes("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else OneOf(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._takes("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > limits.QUERY_DEPTH_MAX:
            raise self._fault(
                self._here.at, f"it nests more than {limits.QUERY_DEPTH_MAX} deep"
            )
        try:
            if self._takes("NOT"):
                return Not(self._one())
            if self._takes("("):
                found = self._any()
                if not self._takes(")"):
                    raise self._unexpected("AND, OR or )")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _field(self) -> Field:
        token = self._take()
        is_name = token.kind == "word" and token.word not in _RESERVED
        if not (is_name or token.kind == "quoted"):
            self._next -= 1
            raise self._unexpected("the name of an attribute")
        name = token.text.strip("`")
        known = RUN_FIELDS.get(name) or ATTRIBUTE_FIELDS.get(name)
        if known is not None:
            return known
        kind = self._kinds.get(name)
        if kind is None:
            names = [*RUN_FIELDS, *ATTRIBUTE_FIELDS, *self._kinds]
            # In code they have shorter names, which people type here, too.
            of_code = vars(Run).get(name.lower())
            close = closest(name, names)
            if isinstance(of_code, Field):
                close = name_of(of_code)
            raise self._fault(
                token.at,
                f"no run has ever had an attribute {name!r}",
                hint=f"There are: {', '.join(names)}."
                if close is None
                else f"Did you mean {close!r}?",
            )
        return Field(name, AttributeKind(kind))

    def _comparison(self) -> Condition:
        field = self._field()
        sign = self._here
        if sign.kind == "sign" and sign.text in _COMPARISONS:
            self._next += 1
            how = "!=" if sign.text == "<>" else sign.text
            value, at = self._value()
            is_order = how not in ("=", "!=")
            at = sign.at if is_order and how not in field.orders else at
            return self._checked(at, lambda: field.compare(how, value))
        if self._takes("IS"):
            is_not = self._takes("NOT")
            self._require("NULL")
            return Not(field.is_null()) if is_not else field.is_null()
        is_not = self._takes("NOT")
        found = self._range(field)
        return Not(found) if is_not else found

    def _range(self, field: Field) -> Condition:
        token = self._here
        if self._takes("BETWEEN"):
            low, at = self._value()
            first = self._checked(
                at if field.orders else token.at, lambda: field.compare(">=", low)
            )
            self._require("AND")
            high, at = self._value()
            last = self._checked(at, lambda: field.compare("<=", high))
            return All((first, last))
        if self._takes("STARTS_WITH"):
            prefix, at = self._value()
            return self._checked(at, lambda: field.starts_with(prefix))
        if self._takes("IN"):
            if not self._takes("("):
                raise self._unexpected("(")
            values: list[Any] = []
            while not values or self._takes(","):
                value, at = self._value()
                self._checked(at, lambda: field.compare("=", value))  # noqa: B023 - called at once
                values.append(value)
            if not self._takes(")"):
                raise self._unexpected(", or )")
            return self._checked(token.at, lambda: field.in_(values))
        raise self._unexpected("=, !=, <, <=, >, >=, IN, BETWEEN, IS or STARTS_WITH")

    def _value(self) -> tuple[Any, int]:
        token = self._take()
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(2 * quote, quote), token.at
        if token.kind == "number":
            is_whole = token.text.lstrip("+-").isdecimal()
            return (int if is_whole else float)(token.text), token.at
        if token.word in ("TRUE", "FALSE"):
            return token.word == "TRUE", token.at
        self._next -= 1
        raise self._unexpected("a text in quotes, a number, true or false")

    def _checked(self, at: int, make: Callable[[], T]) -> T:
        """Say where a value stands that a field has not."""
        try:
            return make()
        except QuerySyntaxError:
            raise
        except InvalidOptionError as error:
            what = error.message.rstrip(".")
            raise self._fault(at, what, hint=error.hint) from None
