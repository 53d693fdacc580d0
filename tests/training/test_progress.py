"""What is said while a model trains."""

from __future__ import annotations

import pytest

from dualtoken.training.progress import Progress, duration


def test_a_pace_that_keeps_changing_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100)
    for total in (95, 80, 60, 90, 120):
        progress.replan(total)
    said = capsys.readouterr().out
    assert said.count("not the forecast one") == 1
    assert "80 steps" in said  # 95 is near enough
    assert progress.total == 120


@pytest.mark.parametrize(
    ("seconds", "words"), [(45, "45 s"), (89.4, "89 s"), (119, "2 min"), (7100, "118 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
