"""Forecasts of series that no network was trained on."""
import os
from dataclasses import dataclass

import torch

from . import _core
from ._numbers import as_numbers

__all__ = ["Forecast", "Forecaster"]


@dataclass(frozen=True)
class Forecast:
    """values [H]: the median of the members [M, H]; intervals: level -> (low [H], high [H]); notes on short or constant
    series and on members left out."""
    values: torch.Tensor
    members: torch.Tensor
    intervals: dict
    notes: list


def _named(series):
    named = series.items() if isinstance(series, dict) else ((f"series {i}", s) for i, s in enumerate(series))
    return [(str(name), as_numbers(values).detach().cpu().double().tolist()) for name, values in named]


class Forecaster:
    """An ensemble of N-BEATS networks that were trained once, on many other series (Oreshkin et al. 2021, arXiv
    2002.02887). Forecaster(path) reads a file of `unbend forecast fit`, or one that ships (data/forecast/).

    Has .frequency, .period, .horizon, .members (how many) and .trained_on.
    """

    def __init__(self, path):
        self._core = _core.Ensemble(os.fspath(path))
        for name in ("frequency", "period", "horizon", "members", "trained_on"):
            setattr(self, name, getattr(self._core, name))

    def predict(self, series, *, horizon=None, levels=(), interpolate=False):
        """Forecasts of a list of series (oldest value first, any lengths and units), or of a dict of them by name: a list or
        a dict of Forecast.

        horizon: the ensemble's; shorter ones are cut off, longer ones feed forecasts back. levels: of conformal intervals,
        such as .8, by the errors on series of the training's kind. NaN at the ends are cut off; others are refused
        (InputError) unless interpolate.
        """
        levels, named = list(levels), _named(series)
        found = [Forecast(p.values, p.members, {level: (p.values - w, p.values + w)
                                                for level, w in zip(levels, p.half_widths)}, p.notes)
                 for p in self._core.predict(named, horizon, levels, interpolate)]
        return dict(zip(series, found)) if isinstance(series, dict) else found

    def evaluate(self, series, *, interpolate=False):
        """Is it any good on these series? Holds the last horizon of each out. By method (Naive, SNaive, Naive2, Theta and
        "N-BEATS", the ensemble): smape and mase (means; NaN without a scale) and owa, the mean of both over Naive2's."""
        return {m.method: {"smape": m.smape.mean().item(), "mase": m.mase.nanmean().item(), "owa": m.owa}
                for m in self._core.evaluate(_named(series), interpolate)}
