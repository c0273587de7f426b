"""`forecast` on CSV files in three layouts, with missing values and bad ones. Usage: forecast_test.py UNBEND"""
import csv
import io
import math
import sys
import unittest
from pathlib import Path

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()
MONTHLY = Path(__file__).resolve().parents[2] / "data" / "forecast" / "monthly.safetensors"


def season(t, level=100):
    return level * (1 + .003 * t) * (1 + .2 * math.sin(2 * math.pi * t / 12))


class Forecast(VerbTestCase):
    program, verb = UNBEND, ("forecast",)

    def write(self, name, text):
        path = self.path / name
        path.write_text(text)
        return path

    def monthly(self, name="s.csv", months=72, change=lambda t, v: v):
        rows = [f"{2010 + t // 12}-{t % 12 + 1:02d}-01,{change(t, season(t))},{season(t, 5)}" for t in range(months)]
        return self.write(name, "date,shoes,hats\n" + "\n".join(r for r in rows if "DROP" not in r) + "\n")

    def test_fit_predict_evaluate_explain(self):
        model = self.path / "m.safetensors"
        fitted = self.run_json("fit", "--synthetic", 220, "--frequency", "quarterly", "--iterations", 40, "--lookbacks", "2,3",
                               "--losses", "smape", "--width", 16, "--blocks", 2, "--quiet", "--out", model)
        self.assertEqual((len(fitted["members"]), fitted["horizon"], fitted["calibration_series"]), (2, 8, 22))
        self.assertIn("220 synthetic series", fitted["trained_on"])
        self.assertEqual(model.stat().st_size, fitted["bytes"])
        again = self.path / "again.safetensors"
        source = self.path / "source.csv"
        self.run_verb("sample", "--count", 220, "--frequency", "quarterly", "--out", source)
        self.run_json("fit", source, "--frequency", "quarterly", "--iterations", 40, "--lookbacks", "2,3", "--losses", "smape",
                      "--width", 16, "--blocks", 2, "--quiet", "--out", again, "--trained-on", fitted["trained_on"])
        self.assertEqual(model.read_bytes(), again.read_bytes())  # what `sample` writes is what `--synthetic` trains on

        forecasts = self.run_json("predict", source, "--model", model, "--intervals", "80")["series"]
        self.assertEqual(len(forecasts), 220)
        first = forecasts[0]
        low, high = first["intervals"][0]["low"], first["intervals"][0]["high"]
        self.assertTrue(all(a < b < c for a, b, c in zip(low, first["forecast"], high)))
        report = self.path / "why.html"
        why = self.run_json("explain", source, "--model", model, "--series", "S7", "--member", 1, "--report", report)
        self.assertEqual(why["series"], "S7")
        for h, value in enumerate(why["forecast"]):
            self.assertAlmostEqual(sum(b["forecast"][h] for b in why["blocks"]), value, delta=1e-4 * abs(value))
        self.assertEqual(len(why["weights_of_past"][0]), 24)
        self.assertIn("updated last layer", report.read_text())

    def test_shipped_ensemble(self):
        shop = self.monthly()
        result = self.run_verb("predict", shop, "--model", MONTHLY)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        self.assertEqual(len(rows), 36)
        self.assertEqual((rows[0]["id"], rows[0]["time"], rows[17]["time"]), ("shoes", "2016-01-01", "2017-06-01"))
        errors = [abs(float(r["forecast"]) / season(72 + t) - 1) for t, r in enumerate(rows[:18])]
        self.assertLess(sum(errors) / 18, .04)
        for a, b in zip(rows[:18], rows[18:]):  # the same shape in other units
            self.assertAlmostEqual(float(a["forecast"]) / 100, float(b["forecast"]) / 5, delta=1e-4)
        out = self.path / "out.csv"
        self.assertIn("2 series", self.run_verb("predict", shop, "--model", MONTHLY, "--out", out).stdout)
        self.assertEqual(out.read_text(), result.stdout)

        report = self.path / "scores.html"
        scores = self.run_json("evaluate", shop, "--model", MONTHLY, "--report", report)
        methods = {m["method"]: m for m in scores["methods"]}
        self.assertEqual(set(methods), {"Naive", "SNaive", "Naive2", "Theta", "N-BEATS"})
        self.assertAlmostEqual(methods["Naive2"]["owa"], 1)
        self.assertLess(methods["N-BEATS"]["owa"], methods["Naive"]["owa"])
        self.assertEqual([c["level"] for c in scores["coverage"]], [.8, .95])
        self.assertIn("OWA", report.read_text())

    def test_missing_values_and_lines(self):
        gaps = self.monthly("gaps.csv", change=lambda t, v: "" if t in (20, 21) else v)
        self.assert_refused(3, "series 'shoes': value 21 (2011-09-01) is missing", "predict", gaps, "--model", MONTHLY)
        filled = self.run_json("predict", gaps, "--model", MONTHLY, "--missing", "interpolate")["series"]
        dropped = self.monthly("dropped.csv", change=lambda t, v: "DROP" if t in (20, 21) else v)
        self.assert_refused(3, "value 21 (2011-09-01) is missing", "predict", dropped, "--model", MONTHLY)
        also = self.run_json("predict", dropped, "--model", MONTHLY, "--missing", "interpolate")["series"]
        self.assertEqual(filled[0]["forecast"], also[0]["forecast"])
        # Series of different lengths, one short, one constant.
        rows = self.write("rows.csv", "id,v1\nlong," + ",".join(str(season(t)) for t in range(50)) + "\nshort,3,4,5\nflat,"
                          + ",".join(["7"] * 30) + ",\n")
        three = self.run_json("predict", rows, "--model", MONTHLY)["series"]
        self.assertIn("less than one horizon", three[1]["notes"][0])
        self.assertEqual(three[2]["forecast"], [7] * 18)
        self.assertEqual(three[2]["intervals"][0]["low"], [7] * 18)
        scores = self.run_json("evaluate", rows, "--model", MONTHLY)
        self.assertEqual(len(scores["left_out"]), 1)
        self.assertEqual(scores["methods"][0]["without_scale"], 1)

    def test_horizons_and_calibration(self):
        shop = self.monthly()
        self.assert_refused(3, "--truncate", "predict", shop, "--model", MONTHLY, "--horizon", 6)
        self.assert_refused(3, "--iterate", "predict", shop, "--model", MONTHLY, "--horizon", 30)
        longer = self.run_json("predict", shop, "--model", MONTHLY, "--horizon", 30, "--iterate")["series"][0]
        self.assertEqual(len(longer["forecast"]), 30)
        self.assertIsNone(longer["intervals"][0]["low"][29])
        self.assert_refused(3, "needs 4 calibration series, there are 2", "predict", shop, "--model", MONTHLY, "--calibrate", shop)
        own = self.run_json("predict", shop, "--model", MONTHLY, "--calibrate", shop, "--intervals", 50)
        self.assertEqual(own["calibration_series"], 2)

    def test_refusals(self):
        shop = self.monthly()
        self.assert_refused(3, "line 3, field 2: 'x' is not a number", "predict", self.write("x.csv", "t,a\n1,2\n2,x\n"), "--model", MONTHLY)
        self.assert_refused(3, "there is no line", "predict", self.write("empty.csv", ""), "--model", MONTHLY)
        self.assert_refused(3, "all its values are missing", "predict", self.write("nan.csv", "a\nNA\nNA\n"), "--model", MONTHLY)
        self.assert_refused(3, "no ensemble", "predict", shop, "--model", self.write("m.safetensors", "\x02" + "\0" * 7 + "{}"))
        self.assert_refused(3, "there is no series 'socks'", "explain", shop, "--model", MONTHLY, "--series", "socks")
        self.assert_refused(2, "--member 99", "explain", shop, "--model", MONTHLY, "--member", 99)
        self.assert_refused(2, "--synthetic", "fit", "--frequency", "monthly", "--out", self.path / "m")
        self.assert_refused(2, "--frequency", "fit", shop, "--frequency", "lunar", "--out", self.path / "m")
        negative = self.write("negative.csv", "a\n" + "\n".join(str(t - 20) for t in range(40)) + "\n")
        self.assert_refused(3, "the loss mape needs positive values", "fit", negative, "--frequency", "monthly", "--quiet",
                            "--out", self.path / "m")
        self.assert_refused(3, "a quarterly series cannot have", "fit", shop, "--frequency", "quarterly", "--quiet", "--out", self.path / "m")
        self.assert_refused(2, "there is no folder", "fit", shop, "--frequency", "monthly", "--out", self.path / "no" / "m")
        self.assertFalse((self.path / "m").exists())

    def test_explain_a_window_of_zeros(self):
        zeros = self.write("zeros.csv", "a\n" + "0\n" * 40)
        why = self.run_json("explain", zeros, "--model", MONTHLY)
        self.assertTrue(all(b["left"] is None for b in why["blocks"]))


if __name__ == "__main__":
    unittest.main()
