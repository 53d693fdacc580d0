"""The arithmetic of docs/scale.md: against formulas where there are some, and the page against what is printed."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dualtoken.lab import plans
from dualtoken.lab.plans import Rates

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SAFE = replace(Rates(), gpu_days=1e9, spread=1e-9)


def generator():
    return np.random.default_rng(0)


def test_the_page_has_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    for name, table in plans.tables(Rates()).items():
        found = re.search(rf"<!-- plans:{name} -->\n(.*?)<!-- /plans -->", text, re.DOTALL)
        assert found is not None
        assert found[1].strip() == table, f"python tests/lab/test_plans.py writes {name} anew"


def test_without_failures_a_run_takes_its_work_and_its_states():
    taken = plans.run_seconds(1000, 100, 1e12, replace(SAFE, save=2), generator())
    assert taken == pytest.approx(1000 + 10 * 2)


def test_a_failure_costs_what_was_not_saved():
    rates = replace(Rates(), save=1e-9, restart=50)
    rare, often = (
        np.mean([plans.run_seconds(10_000, every, 1000, rates, draw) for _ in range(400)]) / 10_000
        for every, draw in ((200, generator()), (10, generator()))
    )
    # a failure each 1,000 s on average: 5 % for restarts, and half an interval each
    assert often == pytest.approx(1 + 0.05 + 0.005, abs=0.01)
    assert rare == pytest.approx(1 + 0.05 + 0.1, abs=0.03)


def test_youngs_interval_is_the_best():
    rates, gpus = Rates(), 64
    best = plans.best_interval(rates, gpus)
    failures = plans.failure_seconds(rates, gpus)

    def mean(every: float) -> float:
        draw = generator()
        return float(np.mean([plans.run_seconds(7 * 86400, every, failures, rates, draw) for _ in range(300)]))

    assert mean(best) < min(mean(best / 8), mean(best * 8))


@pytest.mark.parametrize("shared", [True, False])
def test_equal_workers_take_equal_shares(shared):
    taken = plans.parts_seconds(64, 10.0, 16, SAFE, generator(), shared=shared)
    assert taken == pytest.approx(40.0)


def test_to_give_the_next_part_to_whoever_is_free_is_faster():
    rates = replace(Rates(), spread=0.2)
    shared, fixed = (plans.parts_seconds(1000, 10.0, 10, rates, generator(), shared=how) for how in (True, False))
    assert shared < fixed


def test_more_gpus_move_more_and_wait_longer():
    assert plans.step_seconds(Rates(), 1)[1] == 0
    assert plans.step_seconds(Rates(), 64)[1] > plans.step_seconds(Rates(), 2)[1]
    waits = [plans.slowest(0.05, gpus, generator()) for gpus in (1, 8, 64)]
    assert waits[0] == 1
    assert waits == sorted(waits)


def test_rates_of_ones_own(capsys):
    plans.main(["--gpu-trains", "4000"])
    assert "26.7 h" in capsys.readouterr().out


if __name__ == "__main__":
    content = PAGE.read_text(encoding="utf-8")
    for title, rows in plans.tables(Rates()).items():
        start = content.index(f"<!-- plans:{title} -->\n") + len(f"<!-- plans:{title} -->\n")
        content = content[:start] + rows + "\n" + content[content.index("<!-- /plans -->", start) :]
    PAGE.write_text(content, encoding="utf-8")
