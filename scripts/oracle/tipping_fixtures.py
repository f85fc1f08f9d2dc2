#!/usr/bin/env python3
"""Write tests/fixtures/statistics/tipping.json: tests, robust fits and measures of tipping by statsmodels and scipy.

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    python3 scripts/oracle/tipping_fixtures.py

- t: quantiles and two-sided tails of Student's t; the tails of the expanded percentile interval.
- mcnemar: statsmodels' exact McNemar test. holm: statsmodels' multipletests.
- newcombe: statsmodels' confint_proportions_2indep, method "newcomb" (square and add, from Wilson's intervals).
- ratio, linear, logistic: statsmodels' OLS and Logit with cov_type "cluster" (an intercept alone for ratio).
- crossed: both one-way variances by statsmodels' OLS; their sum and Satterthwaite's degrees written out.
- detectable: (t.975 + t.8) * error, and the smallest number of clusters that finds 0.10, by trying each.
- survival: statsmodels' SurvfuncRight on first events and censored histories.
- change_point: posteriors from scipy's betaln, and by exact integer arithmetic with fractions.
- fieller: the two roots by scipy.optimize.brentq of the pivot t(x) = |a + b x| / se(a + b x) - t.975.
"""
import json
from fractions import Fraction
from math import factorial
from pathlib import Path

import numpy as np
import scipy
import statsmodels
import statsmodels.api as sm
from scipy.optimize import brentq
from scipy.special import betaln
from scipy.stats import norm, t
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

OUT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "statistics" / "tipping.json"


def student():
    quantiles = [{"p": p, "df": df, "value": float(t.ppf(p, df))}
                 for p in (0.8, 0.975) for df in (1, 2, 3.7, 6, 15, 63, 1000)]
    tails = [{"t": x, "df": df, "value": float(2 * t.sf(abs(x), df))}
             for x in (0.0, -1.3, 2.2, 9.0) for df in (1, 6, 15, 63)]
    expanded = [{"g": g, "value": float(norm.cdf(-np.sqrt(g / (g - 1)) * t.ppf(0.975, g - 1)))}
                for g in (3, 7, 14, 16, 64)]
    return {"quantiles": quantiles, "tails": tails, "expanded": expanded}


def mcnemar():
    cases = []
    for gained, lost in [(0, 0), (1, 0), (0, 5), (5, 0), (3, 3), (12, 4), (4, 12), (40, 25), (301, 250)]:
        found = sm_mcnemar([[20, gained], [lost, 30]], exact=True)
        cases.append({"gained": gained, "lost": lost, "p": float(min(found.pvalue, 1.0))})
    return cases


def holm(rng):
    cases = []
    for p in ([0.03], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.001], rng.beta(0.4, 2, 12).tolist()):
        cases.append({"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()})
    return cases


def newcombe():
    cases = []
    for a, n, b, m in [(32, 64, 20, 64), (0, 56, 43, 56), (64, 64, 0, 64), (10, 20, 400, 1000), (5, 7, 5, 7)]:
        low, high = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
        cases.append({"counts": [a, n, b, m], "low": float(low), "high": float(high)})
    return cases


def world(rng, clusters, size, slope=0.8):
    """Rows of cluster, x, y with a random intercept by cluster."""
    rows = []
    for c in range(clusters):
        shift = rng.normal(0, 0.8)
        for _ in range(size if c else size + 3):
            x = float(rng.integers(0, 5))
            p = 1 / (1 + np.exp(-(-1.6 + shift + slope * x)))
            rows.append((c, x, float(rng.random() < p)))
    return np.array(rows)


def robust_fits(rng):
    rows = world(rng, 11, 14)
    groups, x, y = rows[:, 0].astype(int), rows[:, 1], rows[:, 2]
    design = sm.add_constant(x)
    options = {"cov_type": "cluster", "cov_kwds": {"groups": groups}, "use_t": True}
    mean = sm.OLS(y, np.ones_like(y)).fit(**options)
    line = sm.OLS(y, design).fit(**options)
    logit = sm.Logit(y, design).fit(disp=0, tol=1e-13, maxiter=200, method="newton", **options)
    assert line.df_resid_inference == 10, line.df_resid_inference

    def fit(found):
        cov = found.cov_params()
        return {"intercept": float(found.params[0]), "slope": float(found.params[1]),
                "covariance": [float(cov[0, 0]), float(cov[0, 1]), float(cov[1, 1])]}

    low, high = line.conf_int()[1]
    a, b, cov = logit.params[0], logit.params[1], logit.cov_params()
    limit = t.ppf(0.975, 10)

    def pivot(point):
        return abs(a + b * point) - limit * np.sqrt(cov[0, 0] + 2 * point * cov[0, 1] + point ** 2 * cov[1, 1])

    mass = -a / b
    return {
        "rows": rows.tolist(),
        "ratio": {"value": float(mean.params[0]), "error": float(mean.bse[0]), "p": float(mean.pvalues[0])},
        "linear": {**fit(line), "low": float(low), "high": float(high), "p": float(line.pvalues[1])},
        "logistic": fit(logit),
        "fieller": {"mass": float(mass), "low": float(brentq(pivot, mass - 5, mass)),
                    "high": float(brentq(pivot, mass, mass + 5))},
    }


def crossed(rng):
    rows, columns, y = [], [], []
    by_column = rng.normal(0, 0.2, 4)
    for r in range(9):
        shift = rng.normal(0, 0.2)
        for c in range(4):
            for _ in range(rng.integers(2, 5)):
                rows.append(r), columns.append(c), y.append(shift + by_column[c] + rng.normal(0, 0.5))
    y, ones = np.array(y), np.ones(len(y))

    def variance(groups):
        found = sm.OLS(y, ones).fit(cov_type="cluster", cov_kwds={"groups": np.array(groups)})
        return float(found.cov_params()[0, 0])

    a, b = variance(rows), variance(columns)
    return {"rows": rows, "columns": columns, "y": y.tolist(), "value": float(y.mean()),
            "error": float(np.sqrt(a + b)), "df": (a + b) ** 2 / (a * a / 8 + b * b / 3)}


def detectable():
    cases = []
    for error, g, n in [(0.03, 16, 64), (0.08, 7, 56), (0.02, 30, 300), (0.15, 5, 20)]:
        reach = lambda df: t.ppf(0.975, df) + t.ppf(0.8, df)
        needed = next(k for k in range(2, 20_000) if reach(k - 1) * error * np.sqrt(g / k) <= 0.10)
        cases.append({"error": error, "clusters": g, "n": n, "detectable": float(reach(g - 1) * error), "needed": needed})
    return cases


def survival(rng):
    rounds, actors = 5, 40
    histories = []
    for _ in range(actors):
        history = []
        for _ in range(rounds):
            u = rng.random()
            history.append(None if u < 0.08 else bool(u < 0.3))
        histories.append(history)
    times, status = [], []
    for history in histories:
        time, event = rounds, 0
        for place, outcome in enumerate(history):
            if outcome is None:
                time, event = place, 0  # out before this round's risk set: last seen in the round before
                break
            if outcome:
                time, event = place + 1, 1
                break
        times.append(time), status.append(event)
    found = SurvfuncRight(times, status)
    at = dict(zip(found.surv_times.tolist(), zip(found.surv_prob.tolist(), found.n_risk.tolist(),
                                                 found.n_events.tolist())))
    return {"histories": histories,
            "rounds": [{"survival": at[r][0], "at_risk": int(at[r][1]), "events": int(at[r][2])}
                       for r in range(1, rounds + 1)]}


def change_points():
    cases = []
    for counts in ([(20, 64), (22, 64), (40, 64), (41, 64)], [(5, 10), (5, 10)], [(0, 8), (8, 8), (8, 8)],
                   [(300, 640), (310, 640), (305, 640), (320, 640), (290, 640), (299, 640)]):
        def marginal(part):
            k, n = sum(c[0] for c in part), sum(c[1] for c in part)
            return k, n - k
        exact = lambda k, m: Fraction(factorial(k) * factorial(m), factorial(k + m + 1))
        gaps = len(counts) - 1
        splits = [(marginal(counts[:c]), marginal(counts[c:])) for c in range(1, gaps + 1)]
        weights = [Fraction(1, 2) * exact(*marginal(counts))]
        weights += [Fraction(1, 2 * gaps) * exact(*a) * exact(*b) for a, b in splits]
        total = sum(weights)
        posterior = [float(w / total) for w in weights]
        logs = [np.log(0.5) + betaln(marginal(counts)[0] + 1, marginal(counts)[1] + 1)]
        logs += [np.log(0.5 / gaps) + betaln(a[0] + 1, a[1] + 1) + betaln(b[0] + 1, b[1] + 1) for a, b in splits]
        other = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
        assert np.allclose(other, posterior, atol=1e-10), (other, posterior)
        cases.append({"counts": counts, "posterior": posterior})
    return cases


rng = np.random.default_rng(20251005)
fixture = {
    "made_by": {"script": "scripts/oracle/tipping_fixtures.py", "numpy": np.__version__, "scipy": scipy.__version__,
                "statsmodels": statsmodels.__version__},
    "student": student(),
    "mcnemar": mcnemar(),
    "holm": holm(rng),
    "newcombe": newcombe(),
    "fits": robust_fits(rng),
    "crossed": crossed(rng),
    "detectable": detectable(),
    "survival": survival(rng),
    "change_point": change_points(),
}
OUT.write_text(json.dumps(fixture, separators=(",", ":")).replace("],\"", "],\n\"").replace("},\"", "},\n\"") + "\n")
print(f"wrote {OUT}")
