#!/usr/bin/env python3
"""Write tests/fixtures/statistics/intervals.json: intervals by statsmodels, scipy and numpy for the Rust tests.

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    python3 scripts/oracle/statistics_fixtures.py

- wilson: statsmodels' score interval, agreed with scipy's before it is written.
- cluster_rate, cluster_difference: scipy.stats.bootstrap, percentile method, whole clusters resampled; 200 000
  resamples, so what is left of Monte Carlo error is far below the tests' tolerance. `expanded`: the same with the
  percentiles moved outwards for the number of clusters, by scipy's t and normal distributions.
- bonett_price: the adjusted Wald interval of a paired difference, written as the plain Wald interval of the data with
  one +1 and one -1 added.
"""
import json
from pathlib import Path

import numpy as np
import scipy
import statsmodels
from scipy.stats import bootstrap, binomtest, norm, t
from statsmodels.stats.proportion import proportion_confint

OUT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "statistics" / "intervals.json"
RESAMPLES = 200_000


def wilson():
    cases = []
    for count, nobs in [(0, 1), (1, 1), (0, 64), (1, 64), (27, 64), (32, 64), (63, 64), (64, 64), (3, 7), (412, 1000),
                        (1, 100_000)]:
        low, high = proportion_confint(count, nobs, alpha=0.05, method="wilson")
        other = binomtest(count, nobs).proportion_ci(0.95, method="wilson")
        assert abs(low - other.low) < 1e-12 and abs(high - other.high) < 1e-12, (count, nobs)
        cases.append({"count": count, "nobs": nobs, "low": float(low), "high": float(high)})
    return cases


def percentile(sums, weights, seed):
    """95 % percentile bootstrap of sum(sums) / sum(weights), clusters resampled whole; plain and expanded."""
    sums, weights = np.asarray(sums, float), np.asarray(weights, float)

    def interval(level):
        found = bootstrap((sums, weights), lambda s, w, axis: s.sum(axis) / w.sum(axis), paired=True, vectorized=True,
                          n_resamples=RESAMPLES, batch=20_000, method="percentile", confidence_level=level,
                          rng=np.random.default_rng(seed)).confidence_interval
        return {"low": float(found.low), "high": float(found.high)}

    g = len(sums)
    tail = norm.cdf(-np.sqrt(g / (g - 1)) * t.ppf(0.975, g - 1))
    return {"value": float(sums.sum() / weights.sum()), **interval(0.95),
            "expanded": {"tail": float(tail), **interval(1 - 2 * tail)}}


def cluster_rate(rng):
    trials = rng.integers(15, 60, 14)
    events = rng.binomial(trials, rng.beta(2, 3, 14))
    return {"events": events.tolist(), "trials": trials.tolist(), **percentile(events, trials, 1)}


def cluster_difference(rng):
    """One list of per-pair differences a cluster, each -1, 0 or 1."""
    clusters = []
    for shift in rng.normal(0.15, 0.15, 14):
        up = np.clip(0.2 + shift, 0.02, 0.7)
        clusters.append(rng.choice([1, 0, -1], size=rng.integers(20, 50), p=[up, 0.98 - up - 0.1, 0.12]).tolist())
    return {"clusters": clusters, **percentile([sum(c) for c in clusters], [len(c) for c in clusters], 2)}


def bonett_price(rng):
    cases = []
    for n, p in [(1, 0.0), (8, 0.0), (64, 0.0), (64, 0.2), (64, 0.9), (200, 0.4)]:
        d = rng.choice([1, 0, -1], size=n, p=[p, (1 - p) * 0.6, (1 - p) * 0.4]) if p else np.zeros(n, int)
        wide = np.append(d, [1, -1])
        half = norm.ppf(0.975) * wide.std() / np.sqrt(n + 2)
        cases.append({"differences": d.tolist(), "low": float(max(wide.mean() - half, -1)),
                      "high": float(min(wide.mean() + half, 1))})
    return cases


rng = np.random.default_rng(20251004)
fixture = {
    "made_by": {"script": "scripts/oracle/statistics_fixtures.py", "numpy": np.__version__, "scipy": scipy.__version__,
                "statsmodels": statsmodels.__version__},
    "wilson": wilson(),
    "cluster_rate": cluster_rate(rng),
    "cluster_difference": cluster_difference(rng),
    "bonett_price": bonett_price(rng),
}
OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text(json.dumps(fixture, separators=(",", ":")).replace("],\"", "],\n\"") + "\n")
print(f"wrote {OUT}")
