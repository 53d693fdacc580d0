"""A study's rows as a table: means over seeds with their intervals, and which differences can be told from chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualtoken.lab.columns import markdown_table, screen_table
from dualtoken.lab.rows import MAIN, Row

# Student's t, 97.5 %, by degrees of freedom from 1 on (Fisher and Yates 1938); beyond the last one by a series.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.959964
SAME = "not distinguishable"
SHARED = "A difference counts the seeds that both arms have, so it is not always that of the two means."


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; of one value the interval is unknown.

    Attributes:
        value, low, high: in the unit of the values; low and high are None where one value was all.
        number: of values.
    """

    value: float
    low: float | None
    high: float | None
    number: int


@dataclass(frozen=True)
class Line:
    """One arm.

    Attributes:
        arm, says: name, and what it is.
        mparams, gmacs: 10^6 parameters, 10^9 multiply-accumulates.
        measured: the main figure, per cent, over seeds.
        difference: to the base, points, paired by seed; None of the base itself and without a common seed.
        verdict: in words.
        partly: whether arm and base have seeds that the other lacks, which the difference leaves out.
    """

    arm: str
    says: str
    mparams: float
    gmacs: float
    measured: Estimate
    difference: Estimate | None
    verdict: str
    partly: bool = False


def estimate(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Estimate:
    """The mean of a few values with Student's interval: values of several seeds as draws of one normal distribution.

    Args:
        lowest, highest: that a value can be; the interval ends there.
    """
    number, mean = len(values), statistics.fmean(values)
    if number < 2:
        return Estimate(mean, None, None, number)
    half = t_quantile(number - 1) * statistics.stdev(values) / math.sqrt(number)
    return Estimate(mean, max(lowest, mean - half), min(highest, mean + half), number)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with `freedom` degrees of freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def lines(rows: Iterable[Row], base: str, comparisons: Mapping[tuple[str, int], Row] | None = None) -> list[Line]:
    """One line an arm, in the order in which the arms appear.

    Args:
        rows: of one study, scale and task.
        base: name of the arm that the others are compared with.
        comparisons: by (arm, seed) what `evaluation.compare` found between the base and the arm on the same images;
            used where there is one common seed.
    """
    by_arm: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    return [_line(arm, seeds, by_arm.get(base, {}), base, comparisons or {}) for arm, seeds in by_arm.items()]


def _line(
    arm: str,
    seeds: dict[int, Row],
    base_seeds: dict[int, Row],
    base: str,
    comparisons: Mapping[tuple[str, int], Row],
) -> Line:
    first = next(iter(seeds.values()))
    common = sorted(seeds.keys() & base_seeds.keys())
    difference, verdict = None, ""
    if arm != base and common:
        difference = estimate([_main(seeds[seed]) - _main(base_seeds[seed]) for seed in common], -100, 100)
        verdict = _verdict(difference) if len(common) > 1 else _of_one(comparisons.get((arm, common[0])))
    measured = estimate([_main(row) for row in seeds.values()], 0, 100)
    partly = difference is not None and seeds.keys() != base_seeds.keys()
    return Line(arm, first.get("says", ""), first["mparams"], first["gmacs"], measured, difference, verdict, partly)


def _main(row: Row) -> float:
    """The figure that decides, per cent."""
    return 100 * float(row["metrics"][MAIN[row["task"]][0]]["value"])


def _verdict(difference: Estimate) -> str:
    assert difference.low is not None
    assert difference.high is not None
    if difference.low <= 0 <= difference.high:
        return SAME
    return "better" if difference.value > 0 else "worse"


def _of_one(comparison: Row | None) -> str:
    """What `evaluation.compare` says of one pair of runs: of these two, and not of what another seed would give.

    It tells two apart where the interval leaves 0 out and the images bear it out: McNemar's test, or six at least.
    """
    if comparison is None:
        return "one seed: not compared"
    low, high = (100 * comparison["difference"][end] for end in ("low", "high"))
    word, why = {"a": "worse", "b": "better", None: SAME}[comparison["better"]], f"{low:+.1f} to {high:+.1f}"
    if comparison["better"] is None and not low <= 0 <= high:  # the interval is not what decided
        p_value = comparison.get("p_value")
        why = "too few to tell" if p_value is None else f"McNemar's test: p = {p_value:.2g}"
    if comparison.get("title"):  # boxes and masks are compared by a metric that may not be the table's
        why = f"{comparison['title']}: {why}"
    return f"{word} on these images ({why}); one seed"


# ---------------------------------------------------------------- for people


def heads(task: str) -> tuple[str, ...]:
    """Titles of the columns."""
    title = {"top1": "top-1", "ap50": "AP50", "miou": "mIoU"}[MAIN[task][0]]
    return ("arm", "what", "params, M", "MACs, G", "seeds", f"{title}, %", "difference, points", "told apart")


def cells(line: Line) -> tuple[str, ...]:
    """A line's columns as text."""
    return (
        line.arm,
        line.says,
        f"{line.mparams:.2f}",
        f"{line.gmacs:.3f}",
        str(line.measured.number),
        write(line.measured),
        "" if line.difference is None else write(line.difference, sign="+"),
        line.verdict,
    )


def write(part: Estimate, sign: str = "") -> str:
    """`74.1 (73.5 to 74.7)`; of one value the value alone."""
    value = format(part.value, f"{sign}.1f")
    if part.low is None or part.high is None:
        return value
    return f"{value} ({part.low:{sign}.1f} to {part.high:{sign}.1f})"


def markdown(parts: Sequence[Line], task: str) -> str:
    """The lines as a Markdown table."""
    return markdown_table(heads(task), map(cells, parts), numbers=range(2, 7))


def print_lines(parts: Sequence[Line], task: str, console: Any = None) -> None:
    """The lines on the screen, in 80 columns, and what can be told apart."""
    from rich.console import Console

    console = console or Console()
    shown = [(name, *rest[1:6]) for name, *rest in map(cells, parts)]
    titles = ("arm", "M", "G", "n", heads(task)[5], "difference")
    console.print(screen_table(titles, shown, numbers=range(1, 6)))
    verdicts: dict[str, list[str]] = {}  # three words where there are several seeds, else a sentence an arm
    for part in parts:
        verdicts.setdefault(part.verdict, []).append(part.arm)
    for verdict, arms in verdicts.items():
        if verdict:
            console.print(f"{verdict[0].upper() + verdict[1:]}: {', '.join(arms)}", markup=False, soft_wrap=True)
    console.print(f"M parameters, G MACs, n seeds. {note(parts)}", style="dim", soft_wrap=True)


def note(parts: Sequence[Line]) -> str:
    """What the intervals of a table mean."""
    if all(part.measured.number < 2 for part in parts):
        return (
            "One seed an arm. What is told apart is told of these two networks on these images; another seed may turn"
            " it round."
        )
    text = (
        "Means over seeds, in brackets Student's 95 % interval; differences are paired by seed. "
        f"{SAME[0].upper() + SAME[1:]}: the interval of the difference holds 0."
    )
    return f"{text} {SHARED}" if any(part.partly for part in parts) else text
