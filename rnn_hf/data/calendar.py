"""Steps of time series: how far apart they are, when they are, and what a calendar says of them."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_hf.errors import InputError


MONTH = "M"
SECONDS = {"s": 1, "min": 60, "h": 3600, "D": 86_400, "W": 604_800}
# What pandas, GluonTS and the Monash archive call a unit: unit here, how many of it.
ALIASES = {
    "s": ("s", 1), "sec": ("s", 1), "t": ("min", 1), "min": ("min", 1), "h": ("h", 1), "d": ("D", 1), "b": ("D", 1),
    "w": ("W", 1), "m": (MONTH, 1), "ms": (MONTH, 1), "me": (MONTH, 1), "q": (MONTH, 3), "qs": (MONTH, 3),
    "qe": (MONTH, 3), "y": (MONTH, 12), "a": (MONTH, 12), "ys": (MONTH, 12), "ye": (MONTH, 12),
}  # fmt: skip
# How many steps of one unit a season has: an hour of seconds, a day of minutes and hours, a week of days, a year.
SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 7, "W": 52, MONTH: 12}
# What the calendar says of a step, from the fastest to the slowest, by unit.
FEATURES = {
    "s": ("second", "minute", "hour", "weekday"),
    "min": ("minute", "hour", "weekday"),
    "h": ("hour", "weekday"),
    "D": ("weekday", "day", "month"),
    "W": ("week", "month"),
    MONTH: ("month",),
}


@dataclass(frozen=True)
class Frequency:
    """How far apart the steps of a series are.

    Attributes:
        count: Units from step to step.
        unit: `s`, `min`, `h`, `D`, `W` or `M`, a month.
    """

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{'' if self.count == 1 else self.count}{self.unit}"

    @property
    def season_length(self) -> int:
        """Steps after which a series is likely to be as before.

        >>> [Frequency.of(name).season_length for name in ("h", "15min", "D", "W", "M", "Q")]
        [24, 96, 7, 52, 12, 4]
        """
        return max(1, SEASONS[self.unit] // self.count)

    @property
    def features(self) -> tuple[str, ...]:
        """What the calendar says of a step that changes from step to step."""
        return FEATURES[self.unit]

    @staticmethod
    def of(name: str) -> "Frequency":
        """The frequency by its name in pandas, old or new, as `h`, `15T` or `MS`.

        Raises:
            InputError: Another name.
        """
        match = re.fullmatch(r"\s*(\d*)\s*([a-zA-Z]+)(?:-\w+)?\s*", name)
        if match is None or match[2].lower() not in ALIASES or match[1] == "0":
            raise InputError(f"`frequency` must be a name like h, 15min, D, W or M, got {name!r}")
        unit, factor = ALIASES[match[2].lower()]
        return Frequency(int(match[1] or 1) * factor, unit)

    def times(self, start: np.datetime64, begin: int, end: int) -> np.ndarray:
        """The times of steps `begin` to `end` after `start`, `(end - begin,)` in seconds.

        >>> Frequency.of("M").times(np.datetime64("2020-01-31"), 0, 3).astype("datetime64[D]").tolist()
        [datetime.date(2020, 1, 31), datetime.date(2020, 2, 29), datetime.date(2020, 3, 31)]
        """
        return self._after(start, np.arange(begin, end))

    def _after(self, start: np.datetime64, steps: np.ndarray) -> np.ndarray:
        first, units = start.astype("datetime64[s]"), steps * self.count
        if self.unit != MONTH:
            return first + (units * SECONDS[self.unit]).astype("timedelta64[s]")
        month = first.astype("datetime64[M]")
        months = month + units.astype("timedelta64[M]")
        since = first - month.astype("datetime64[s]")
        last_day = (months + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
        day = np.minimum(months.astype("datetime64[D]") + since.astype("timedelta64[D]"), last_day)
        return day.astype("datetime64[s]") + since % np.timedelta64(86_400, "s")

    def steps(self, start: np.datetime64, times: np.ndarray) -> np.ndarray:
        """How many steps after `start` times are, `(n,)`; -1 for a time between two steps or before the first.

        >>> Frequency.of("h").steps(np.datetime64("2020-01-01"), np.array(["2020-01-01T02", "2020-01-01T02:30"],
        ...                                                               "datetime64[s]"))
        array([ 2, -1])
        """
        times, first = times.astype("datetime64[s]"), start.astype("datetime64[s]")
        if self.unit == MONTH:
            steps = (times.astype("datetime64[M]") - first.astype("datetime64[M]")).astype(int) // self.count
        else:
            steps = (times - first).astype(int) // (self.count * SECONDS[self.unit])
        return np.where((self._after(start, steps) == times) & (steps >= 0), steps, -1)


def infer_frequency(times: np.ndarray) -> Frequency:
    """The frequency of ascending times, `(n,)`, of which some may be missing between.

    Raises:
        InputError: There are fewer than two times.
    """
    times = times.astype("datetime64[s]")
    if len(times) < 2:
        raise InputError("one time has no frequency: give `frequency`")
    least = int((times[1:] - times[:-1]).astype(int).min())
    if least >= 28 * SECONDS["D"]:
        months = np.diff(times.astype("datetime64[M]").astype(int))
        frequency = Frequency(max(1, int(np.gcd.reduce(months))), MONTH)
        if (frequency.steps(times[0], times) >= 0).all():
            return frequency
    unit = max((unit for unit, seconds in SECONDS.items() if least % seconds == 0), key=lambda unit: SECONDS[unit])
    return Frequency(least // SECONDS[unit], unit)


def time_features(times: np.ndarray, names: tuple[str, ...] | list[str]) -> np.ndarray:
    """What the calendar says of times, each from -0.5 for the first value to 0.5 for the last.

    Args:
        times: `(n,)`.
        names: Among `second`, `minute`, `hour`, `weekday`, `day`, `week`, `month`; those of a frequency are
            `Frequency.features`.

    Returns:
        `(n, names)` float32.

    Example:

    >>> time_features(np.array(["2016-07-04T00", "2016-07-10T23"], "datetime64[s]"), ["hour", "weekday"]).tolist()
    [[-0.5, -0.5], [0.5, 0.5]]
    """
    times = times.astype("datetime64[s]")
    days, months, years = (times.astype(f"datetime64[{unit}]") for unit in "DMY")
    seconds = (times - days).astype(int)
    values: dict[str, tuple[Any, int]] = {
        "second": (seconds % 60, 59),
        "minute": (seconds // 60 % 60, 59),
        "hour": (seconds // 3600, 23),
        "weekday": ((days.astype(int) + 3) % 7, 6),  # 1970 began on a Thursday
        "day": ((days - months).astype(int), 30),
        "week": ((days - years).astype(int) // 7, 52),
        "month": ((months - years).astype(int), 11),
    }
    columns = [values[name][0] / values[name][1] - 0.5 for name in names]
    return np.stack(columns, axis=-1).astype("float32") if columns else np.zeros((len(times), 0), "float32")
