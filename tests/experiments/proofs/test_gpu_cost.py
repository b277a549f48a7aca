"""The estimate of a GPU's cost: what is counted, and what is made of the counts."""

from dataclasses import replace

import pytest

from cgan_jax.config import PenaltyConfig, TrainConfig
from cgan_jax.presets import PRESETS
from experiments.proofs import gpu_cost, tiny
from experiments.proofs.gpu_cost import LAUNCH, Cost, Gpu

PROGRAM = """HloModule step
%body (p: f32[2]) -> f32[2] {
  ROOT %inner = f32[2]{0} fusion(f32[2]{0} %p), kind=kLoop
}

ENTRY %main (a: f32[2], b: f32[2]) -> (f32[2], f32[2]) {
  %a = f32[2]{0} parameter(0), metadata={op_name="a"}
  %pair = (f32[2]{0}, f32[2]{0}) fusion(f32[2]{0} %a), kind=kLoop, calls=%body
  %one = f32[2]{0} get-tuple-element((f32[2]{0}, f32[2]{0}) %pair), index=0
  %product = f32[2]{0} dot(f32[2]{0} %one, f32[2]{0} %a)
  %sum = f32[2]{0:T(128)} custom-call(f32[2]{0} %product), custom_call_target="sum"
  ROOT %both = (f32[2]{0}, f32[2]{0}) tuple(%sum, %product)
}
"""


def test_kernels_are_those_of_the_main_computation():
    assert gpu_cost.count_kernels(PROGRAM) == 3


def sizes(layers):
    """How many weights all layers have, and the first: pairs of widths."""
    weights = [a * b for a, b in layers]
    return sum(weights), weights[0]


@pytest.mark.slow
def test_operations_are_those_that_are_counted_by_hand():
    """Of the report's products, within 10%: the rest is elementwise."""
    config = PRESETS["report"]
    generator = [(110, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    discriminator = [(794, 512), (512, 512), (512, 512), (512, 1)]
    (all_g, first_g), (all_d, first_d) = sizes(generator), sizes(discriminator)
    # Forward, kernels' gradients, and the inputs' of all layers but the first.
    of_generator = 3 * all_g - first_g
    on_fakes, on_both = 2 * all_d, 2 * (3 * all_d - first_d)
    by_hand = 2 * config.batch_size * (of_generator + on_fakes + on_both)
    cost = gpu_cost.step_cost(config)
    assert by_hand < cost.operations < 1.1 * by_hand
    assert cost.bytes > 6 * 4 * (all_g + all_d)  # Adam reads and writes parameters and two moments
    assert cost.kernels > 40


@pytest.mark.slow
def test_a_paired_step_scores_each_half_once_for_both_players():
    """And follows the gradient of the generator's loss through D(fake) alone."""
    config = replace(PRESETS["relativistic_mlp"], penalty=PenaltyConfig())
    generator = [(64, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    discriminator = [(784, 512), (512, 512), (512, 512)]
    (all_g, first_g), (all_d, first_d) = sizes(generator), sizes(discriminator)
    of_generator = 3 * all_g - first_g
    scores, to_fakes, of_discriminator = 2 * all_d, all_d, 2 * (2 * all_d - first_d)
    by_hand = 2 * config.batch_size * (of_generator + scores + to_fakes + of_discriminator)
    assert by_hand < gpu_cost.step_cost(config).operations < 1.1 * by_hand


def test_a_penalty_counts_by_how_often_it_is_due(monkeypatch):
    with_penalty, without = Cost(10.0, 100.0, 20), Cost(2.0, 60.0, 12)
    monkeypatch.setattr(
        gpu_cost, "program_cost", lambda gan, n: with_penalty if gan.penalty else without
    )
    config = tiny.shrink(replace(TrainConfig(), penalty=PenaltyConfig("r1", every=4)))
    assert gpu_cost.step_cost(config) == (4.0, 70.0, 14)
    assert gpu_cost.step_cost(replace(config, penalty=PenaltyConfig("r1"))) == with_penalty


def test_the_largest_time_is_an_epochs(monkeypatch):
    monkeypatch.setattr(gpu_cost, "GPUS", (Gpu("A", 1e12, 2e12, 1e9), Gpu("B", 1e6, 1e12, 1e12)))
    wide = PRESETS["residual_wide"]
    assert gpu_cost.times(wide, Cost(2e12, 5e8, 100), gpu_cost.GPUS[0]) == (1.0, 0.5, 100 * LAUNCH)
    text = gpu_cost.table({"report": (PRESETS["report"], Cost(1e9, 2e6, 1000))})
    titles, line, cells = text.splitlines()
    assert len({text.count("|") for text in (titles, line, cells)}) == 1
    # 938 steps: of A launches, 3 ms, are the most; of B products, 1,000 s.
    assert cells == (
        "| `report` | 1.0 | 2 | 1,000 | 3.00 | 1 | 2 | 2.8 | 1e+06 | 0.002 | 9.4e+05 |"
    )
