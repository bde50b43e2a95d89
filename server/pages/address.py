"""What a batch's page shows, as its address says it: filter, order, arrangement and place. Links repeat what holds."""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from db.reading.clips import Filter, Order, Place
from pipeline.errors import InputError, Problem
from pipeline.nearest import did_you_mean
from pipeline.prompts.numbers import show
from pipeline.states import JobState
from service.labels import label_of

ARRANGEMENTS = ("wall", "prompts", "grid")
PAGE_SIZE = 120
_MAX_TEXT = 500
_FILTERS = ("state", "label", "preset", "seed", "q", "metric", "least", "most", "stars")
_OTHERS = ("sort", "view", "by")


def own_path(text: str) -> str:
    """Return the path, if it is one of this server: ``//host`` and ``/\\host`` lead elsewhere; else ``/``."""
    own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if own else "/"


@dataclass(frozen=True, slots=True)
class Address:
    """The parameters that a page was asked for with, read and checked."""

    path: str
    given: Mapping[str, str]
    """What was given and is not empty, as text."""
    filter: Filter
    order: Order
    arrangement: str
    place: Place | None

    @classmethod
    def of(cls, path: str, query: Mapping[str, str]) -> Self:
        """Raises InputError with every mistake."""
        given = {name: query[name].strip()[:_MAX_TEXT] for name in (*_FILTERS, *_OTHERS, "after") if query.get(name)}
        given = {name: value for name, value in given.items() if value}
        reader = _Reader(given)
        label = reader.label()
        chosen = Filter(
            states=() if (state := reader.choice("state", tuple(JobState))) is None else (JobState(state),),
            label=label,
            preset=given.get("preset"),
            seed=reader.whole("seed"),
            text=given.get("q"),
            metric=given.get("metric"),
            least=reader.number("least"),
            most=reader.number("most"),
            stars=reader.number("stars"),
        )
        order = Order(reader.choice("sort", tuple(Order)) or Order.TROUBLE)
        arrangement = reader.choice("view", ARRANGEMENTS) or "wall"
        if chosen.metric is None and (order in (Order.BEST, Order.WORST) or {"least", "most"} & given.keys()):
            reader.problem("metric", "name the metric by whose scores clips are filtered or sorted")
        place = reader.place(arrangement)
        if reader.problems:
            raise InputError(reader.problems)
        return cls(path, given, chosen, order, arrangement, place)

    @property
    def filtered(self) -> bool:
        return any(name in self.given for name in _FILTERS)

    @property
    def filtered_closely(self) -> bool:
        return any(name in self.given for name in _FILTERS if name not in ("state", "q"))

    def text(self, name: str) -> str:
        """Return what was given, for the form that shows it."""
        return self.given.get(name, "")

    def with_(self, **changes: object) -> str:
        """Return the address with other values; None takes one away. Without a place it begins at the first page."""
        values = {name: value for name, value in self.given.items() if name != "after"}
        values |= {name: str(value) for name, value in changes.items() if value is not None}
        kept = {name: value for name, value in values.items() if name not in changes or changes[name] is not None}
        return f"{self.path}?{urllib.parse.urlencode(kept)}" if kept else self.path

    @property
    def here(self) -> str:
        """The address of this page itself."""
        return self.with_(after=self.given.get("after"))

    def after(self, place: Place) -> str:
        """Return the address of the page that begins after this place."""
        key = "" if place.key is None else f"_{place.key!r}"
        return self.with_(after=f"{place.phase}_{place.seq}{key}")


class _Reader:
    """Reads texts as what they should be, and collects what is wrong with them."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.problems: list[Problem] = []

    def problem(self, name: str, message: str) -> None:
        self.problems.append(Problem(message, field=name))

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self._given.get(name)
        if value is None or value in allowed:
            return value
        rule = f"{did_you_mean(value, allowed)}use one of {', '.join(allowed)}"
        self.problem(name, f"{show(value)} is not possible: {rule}")
        return None

    def whole(self, name: str) -> int | None:
        value = self._given.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) < 2**63):
            self.problem(name, f"{show(value)} is not a whole number from 0 to {2**63 - 1}")
            return None
        return int(value)

    def number(self, name: str) -> float | None:
        value = self._given.get(name)
        try:
            number = None if value is None else float(value)
        except ValueError:
            number = float("nan")
        if number is not None and not abs(number) < float("inf"):
            self.problem(name, f"{show(value)} is not a number")
            return None
        return number

    def label(self) -> tuple[str, str | None] | None:
        value = self._given.get("label")
        try:
            return None if value is None else label_of(value)
        except InputError as error:
            self.problems += [Problem(problem.message, field="label") for problem in error.problems]
            return None

    def place(self, arrangement: str) -> Place | None:
        value = self._given.get("after")
        if value is None:
            return None
        try:
            phase, seq, *key = value.split("_")
            place = Place(int(phase), int(seq), float(key[0]) if key else None)
            if place.phase not in (0, 1) or not -1 <= place.seq < 2**31 or len(key) > 1 or len(value) > 60:
                raise ValueError
        except ValueError:
            self.problem("after", f"{show(value)} is not a place on this page: use its links")
            return None
        return place
