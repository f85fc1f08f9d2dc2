"""Bradley–Terry strengths of small tournaments, by scipy on the penalised likelihood and, without a prior, by choix.

The objective is Σ wins[i][j] · log σ(λᵢ − λⱼ) + prior · Σ (log σ(λᵢ) + log σ(−λᵢ)): a logistic regression in which every
item also won and lost `prior` times against an opponent at 0. scipy minimises its negative with gradient and Hessian
(trust-exact); the result is polished by Newton steps in fp64 and shifted to mean 0. Where the prior is 0, choix's
Luce spectral ranking (Maystre & Grossglauser 2015), another algorithm, must agree.

`worked` is the four-player example of the method's encyclopaedia article: 22 games, strengths 0.640, 1.043, 0.660, 2.270
(geometric mean 1).
"""
import math

import choix
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from common import folder, save_json, say
from importlib.metadata import version

WORKED = [[0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]]
WORKED_STRENGTHS = [0.640, 1.043, 0.660, 2.270]


def complete(levels):
    """Everyone against everyone: the higher level wins, equals share."""
    return [[0 if i == j else 1.0 if a > b else 0.5 if a == b else 0.0 for j, b in enumerate(levels)]
            for i, a in enumerate(levels)]


def tournament(n, seed, games):
    """Random games with random results, one in five a tie."""
    draw = np.random.default_rng(seed)
    wins = np.zeros((n, n))
    for _ in range(games):
        i, j = draw.choice(n, size=2, replace=False)
        if draw.random() < 0.2:
            wins[i, j] += 0.5
            wins[j, i] += 0.5
        else:
            wins[i, j] += 1
    return wins.tolist()


CASES = {
    "worked": (WORKED, 0.0),
    "worked_with_prior": (WORKED, 0.25),
    "five_items_with_ties": (tournament(5, 61, 40), 0.0),
    "twelve_items_with_ties": (tournament(12, 62, 150), 0.0),
    "sparse_and_unconnected": ([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 1, 0]], 0.1),
    "perfect_winner_of_eight": (complete([1, 0, 0, 0, 0, 0, 0, 0]), 0.1),
    "strict_order_of_eight": (complete([7, 6, 5, 4, 3, 2, 1, 0]), 0.1),
    "three_levels_of_eight": (complete([2, 2, 1, 1, 1, 0, 0, 0]), 0.1),
    "three_levels_of_eight_strong_prior": (complete([2, 2, 1, 1, 1, 0, 0, 0]), 1.0),
}


def solve(wins, prior):
    wins = np.array(wins, dtype=float)
    n = len(wins)
    # Without a prior the sum of all λ is free; a penalty on it does not move the differences.
    anchor = 1.0 if prior == 0 else 0.0

    def value(x):
        apart = x[:, None] - x[None, :]
        return (wins * np.logaddexp(0, -apart)).sum() + prior * (np.logaddexp(0, x) + np.logaddexp(0, -x)).sum() \
            + anchor * x.sum() ** 2 / 2

    def gradient(x):
        p = expit(x[None, :] - x[:, None])  # probability that the row loses
        return (wins.T * p.T).sum(1) - (wins * p).sum(1) + prior * (2 * expit(x) - 1) + anchor * x.sum()

    def hessian(x):
        p = expit(x[:, None] - x[None, :])
        h = -(wins + wins.T) * p * (1 - p)
        h -= np.diag(h.sum(1))
        return h + np.diag(2 * prior * expit(x) * expit(-x)) + anchor

    x = minimize(value, np.zeros(n), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}).x
    for _ in range(5):
        x = x - np.linalg.solve(hessian(x), gradient(x))
    if abs(gradient(x)).max() > 1e-12 * max(1.0, wins.sum()):
        raise SystemExit(f"not at the maximum: {gradient(x)}")
    return (x - x.mean()).tolist()


def main():
    out = folder("bradley_terry")
    record = {"versions": {name: version(name) for name in ("numpy", "scipy", "choix")},
              "worked_strengths": WORKED_STRENGTHS, "cases": {}}
    for name, (wins, prior) in CASES.items():
        found = solve(wins, prior)
        entry = {"wins": wins, "prior": prior, "log_strengths": found}
        if prior == 0:
            # choix takes whole wins: twice the counts have the same maximum.
            data = [(i, j) for i, row in enumerate(wins) for j, count in enumerate(row) for _ in range(int(2 * count))]
            other = choix.ilsr_pairwise(len(wins), data, max_iter=10_000, tol=1e-13)
            entry["choix_apart"] = float(abs(other - other.mean() - np.array(found)).max())
            if entry["choix_apart"] > 1e-8:
                raise SystemExit(f"{name}: choix {other}, scipy {found}")
        say(f"{name}: {[round(x, 4) for x in found]}, choix apart by {entry.get('choix_apart')}")
        record["cases"][name] = entry
    strengths = [math.exp(x) for x in record["cases"]["worked"]["log_strengths"]]
    if any(abs(a - b) > 1e-3 for a, b in zip(strengths, WORKED_STRENGTHS)):
        raise SystemExit(f"worked example: {strengths}")
    save_json(out / "bradley_terry.json", record)


if __name__ == "__main__":
    main()
