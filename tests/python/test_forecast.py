"""The ensembles that ship, from Python."""
import math
import unittest
from pathlib import Path

import torch

import unbend

SHIPPED = Path(__file__).resolve().parents[2] / "data/forecast"


def season(length, period=12, level=100., slope=.2):
    t = torch.arange(length).double()
    return level + slope * t + 20 * torch.sin(2 * math.pi * t / period)


class Forecasts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.monthly = unbend.Forecaster(SHIPPED / "monthly.safetensors")

    def test_what_it_is(self):
        self.assertEqual((self.monthly.frequency, self.monthly.period, self.monthly.horizon), ("monthly", 12, 18))
        self.assertGreater(self.monthly.members, 1)
        self.assertEqual(unbend.Forecaster(str(SHIPPED / "quarterly.safetensors")).period, 4)
        with self.assertRaises(unbend.InputError):
            unbend.Forecaster("/no/such/file")

    def test_forecasts(self):
        whole = season(138)
        (forecast,) = self.monthly.predict([whole[:120]], levels=[.5, .8])
        self.assertEqual(forecast.values.shape, (18,))
        self.assertEqual(forecast.members.shape, (self.monthly.members, 18))
        self.assertTrue(torch.equal(forecast.values, forecast.members.quantile(.5, 0)))
        self.assertLess((forecast.values - whole[120:]).abs().mean().item(), 5)  # the season repeated: 3.6
        low, high = forecast.intervals[.8]
        self.assertTrue(((low < forecast.values) & (forecast.values < high)).all())
        self.assertTrue((forecast.intervals[.5][0] >= low).all())
        by_name = self.monthly.predict({"a": whole[:120].numpy() * 1000, "b": [5.] * 40})
        torch.testing.assert_close(by_name["a"].values, 1000 * forecast.values, rtol=1e-5, atol=0)
        torch.testing.assert_close(by_name["b"].values, torch.full((18,), 5.).double())
        self.assertTrue(by_name["b"].notes)
        self.assertTrue(torch.equal(self.monthly.predict([whole[:120]], horizon=6)[0].values, forecast.values[:6]))
        self.assertEqual(len(self.monthly.predict([whole[:120]], horizon=30)[0].values), 30)

    def test_evaluation(self):
        scores = self.monthly.evaluate([season(100), season(80, level=50)])
        self.assertEqual(set(scores), {"Naive", "SNaive", "Naive2", "Theta", "N-BEATS"})
        self.assertEqual(scores["Naive2"]["owa"], 1)
        self.assertLess(scores["N-BEATS"]["smape"], scores["Naive"]["smape"])

    def test_bad_input(self):
        holes = season(60)
        holes[30] = math.nan
        self.assertEqual(len(self.monthly.predict([holes], interpolate=True)[0].values), 18)
        for call in (lambda: self.monthly.predict([holes]), lambda: self.monthly.predict([[]]),
                     lambda: self.monthly.predict([season(60)], levels=[1.5]),
                     lambda: self.monthly.predict([season(60)], horizon=30, levels=[.8]),
                     lambda: self.monthly.predict([season(60)], horizon=0),
                     lambda: self.monthly.predict([season(60)], horizon=-1),
                     lambda: self.monthly.evaluate([season(10)])):
            with self.assertRaises(unbend.InputError):
                call()


if __name__ == "__main__":
    unittest.main()
