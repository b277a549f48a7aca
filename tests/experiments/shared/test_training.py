"""What a command says before it trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from cgan_jax.presets import PRESETS
from experiments.shared.training import _first_line


@pytest.mark.parametrize(
    ("preset", "schedule_steps", "is_said"),
    [
        ("residual", 20, True),
        ("residual", 30, False),
        ("report", None, False),
        ("report", 20, False),  # nothing changes
    ],
)
def test_a_run_longer_than_its_schedules_says_where_they_end(preset, schedule_steps, is_said):
    config = replace(PRESETS[preset], schedule_steps=schedule_steps)
    line = _first_line(Path("runs/longer"), config, 20, 30, None)
    assert line.startswith("Resuming in runs/longer: step 20 of 30")
    assert ", 10 steps to take on " in line
    assert ("(its schedules end at step 20; their last values then stay)" in line) == is_said
    assert ("schedules" in line) == is_said
