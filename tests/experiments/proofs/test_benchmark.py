"""The stopwatches of the benchmarks. What they time is measured by hand: docs/results.md."""

from experiments.proofs.benchmark_parts import _times_spans


class Runs:
    """Stands for the spans of a run of 11 batches per epoch, the last of them smaller."""

    per_epoch = 11

    def __init__(self):
        self.calls = []

    def fresh_state(self):
        return "state"

    def run(self, state, step, at_most):
        self.calls.append((step, at_most))
        return state, None, None


def test_a_turn_is_timed_within_one_epoch_after_as_many_steps():
    runs = Runs()
    assert _times_spans(runs, 1)(4) > 0
    assert _times_spans(runs, 1)(400) > 0
    assert _times_spans(runs, 4)(12) > 0
    assert runs.calls == [(0, 4), (4, 4), (0, 5), (5, 5), (0, 3), (3, 3)]
