"""Forecasts as rows of a table and as a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnn_hf.plotting import new_figure, save_figure
from rnn_hf.tasks.time_series_forecasting import SeriesForecast


MOST_SHOWN = 8  # series in a picture
PAST_SHOWN = 2  # times as many steps before as are predicted
BANDS = ((0.05, 0.95, 0.2), (0.25, 0.75, 0.35))  # levels of the edges, and how dark


def forecast_rows(forecasts: Sequence[SeriesForecast]) -> Iterator[dict[str, Any]]:
    """A row a step of each series: its time, the series, the mean and the quantiles by their levels.

    A model of points has one column `forecast` in their place.
    """
    for forecast in forecasts:
        times = forecast.series.times(forecast.origin, forecast.origin + len(forecast.mean))
        for step, time in enumerate(times):
            row = {"time": str(time).replace("T", " "), "series": forecast.series.item_id}
            if not forecast.quantiles:
                yield row | {"forecast": float(forecast.mean[step])}
                continue
            levels = {f"{level:g}": float(values[step]) for level, values in forecast.quantiles.items()}
            yield row | {"mean": float(forecast.mean[step])} | levels


def plot_forecasts(forecasts: Sequence[SeriesForecast], png: Path, title: str = "") -> None:
    """Draw the past, the truth where it is known, and the forecast with its bands, of the first series.

    Args:
        forecasts: Of at most `MOST_SHOWN` series one is drawn each.
        png: File to write.
        title: Over the picture.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    shown = forecasts[:MOST_SHOWN]
    columns = 2 if len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    figure = new_figure(5.5 * columns, 0.6 + 2.2 * rows)
    plots = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).flatten()
    for axes, forecast in zip(plots, shown, strict=False):
        _plot(axes, forecast)
    for axes in plots[len(shown) :]:
        axes.set_axis_off()
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, png)


def _plot(axes: Any, forecast: SeriesForecast) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    series, origin, horizon = forecast.series, forecast.origin, len(forecast.mean)
    begin, end = max(0, origin - PAST_SHOWN * horizon), origin + horizon
    # The last value before joins the lines.
    times, joined = series.times(begin, end), series.times(origin - 1, end)
    known = np.full(end - begin, np.nan)
    own = series.target[begin:end]
    known[: len(own)] = own
    last = series.target[origin - 1]
    axes.plot(times[: origin - begin], known[: origin - begin], color="0.35", linewidth=1, label="past")
    if np.isfinite(known[origin - begin :]).any():
        axes.plot(joined, known[origin - begin - 1 :], color="k", linewidth=1, label="what followed")
    for low, high, alpha in BANDS if forecast.quantiles else ():
        edges = forecast.quantiles[low], forecast.quantiles[high]
        axes.fill_between(times[origin - begin :], *edges, color="C0", alpha=alpha, linewidth=0,
                          label=f"{100 * (high - low):.0f} %")  # fmt: skip
    middle = forecast.quantiles.get(0.5, forecast.mean)
    label = "median" if forecast.quantiles else "forecast"
    axes.plot(joined, np.concatenate([[last], middle]), color="C0", linewidth=1.4, label=label)
    axes.axvline(joined[0], color="0.7", linewidth=0.8, linestyle=":")
    axes.set_title(series.item_id, fontsize=10, loc="left")
    locator = AutoDateLocator(maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.tick_params(labelsize=8)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.grid(alpha=0.25)
