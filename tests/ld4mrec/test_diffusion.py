"""Schedule, corruption and importance sampling against hand-computed values and statistics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4mrec.diffusion import StepSampler, corrupt, noise_variances, posterior_mean_weights, step_embedding


@pytest.mark.parametrize("diffusion_steps", [2, 5, 40])
def test_papers_variances_run_from_1e_5_to_a_tenth(diffusion_steps):
    variances = noise_variances(diffusion_steps, noise_scale=0.1, noise_min=1e-4)
    assert variances.dtype == torch.float64
    assert len(variances) == diffusion_steps
    assert variances[0].item() == pytest.approx(1e-5, rel=1e-12)
    assert variances[-1].item() == pytest.approx(0.1, rel=1e-12)


def test_variances_between_the_ends_lie_on_a_line():
    # s [a_min + (t - 1) / (T - 1) (a_max - a_min)] with s = 0.5, a_min = 0.1, a_max = 0.3, T = 3
    assert noise_variances(3, 0.5, 0.1, 0.3).tolist() == pytest.approx([0.05, 0.1, 0.15])


def test_a_single_step_has_the_largest_variance():
    assert noise_variances(1, 0.1, 1e-4).tolist() == pytest.approx([0.1])
    assert noise_variances(1, 0.1, 1e-4, 0.5).tolist() == pytest.approx([0.05])


def test_step_embedding_interleaves_sines_and_cosines_of_t_from_one():
    z = step_embedding(3, 4)
    expected = [[math.sin(t), math.cos(t), math.sin(t / 100), math.cos(t / 100)] for t in (1, 2, 3)]
    assert z.dtype == torch.float32
    assert torch.allclose(z, torch.tensor(expected))


@pytest.mark.parametrize("dim", [0, 3])
def test_step_embedding_refuses_an_odd_width(dim):
    with pytest.raises(ValueError, match=f"even width, found {dim}"):
        step_embedding(2, dim)


def test_corrupt_has_the_mean_and_variance_of_eq_2_row_by_row():
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).repeat_interleave(100_000, dim=1)
    variance = torch.tensor([0.1, 0.36])
    x_t = corrupt(x, variance)
    assert x_t[0, :100_000].mean().item() == pytest.approx(0.0, abs=0.005)
    assert x_t[0, 100_000:].mean().item() == pytest.approx(math.sqrt(0.9), abs=0.005)
    assert x_t[1].mean().item() == pytest.approx(0.8, abs=0.007)
    assert (x_t - x * (1 - variance[:, None]).sqrt()).var(dim=1).tolist() == pytest.approx([0.1, 0.36], rel=0.02)


def test_corrupt_without_variance_returns_the_rows_and_leaves_its_input_alone():
    x = torch.tensor([[0.0, 1.0, 1.0]])
    assert torch.equal(corrupt(x, torch.tensor(0.0)), x)
    corrupt(x, torch.tensor([[0.5]]))
    assert x.tolist() == [[0.0, 1.0, 1.0]]


def test_small_steps_of_eq_1_add_up_to_the_one_draw_of_eq_2():
    variances = noise_variances(4, 0.4, 0.1)
    alpha = (1 - variances) / torch.cat((torch.ones(1, dtype=torch.float64), 1 - variances[:-1]))
    mean, variance = 1.0, 0.0
    for a in alpha.tolist():
        mean, variance = math.sqrt(a) * mean, a * variance + (1 - a)
    assert mean == pytest.approx(math.sqrt(1 - variances[-1].item()))
    assert variance == pytest.approx(variances[-1].item())


def test_posterior_mean_of_two_steps_by_hand():
    # v = (0.1, 0.28): alpha_2 = 0.72 / 0.9 = 0.8, so c_0 = 0.2 sqrt(0.9) / 0.28 and c_t = 0.1 sqrt(0.8) / 0.28
    of_x_0, of_x_t = posterior_mean_weights(torch.tensor([0.1, 0.28], dtype=torch.float64))
    assert of_x_0.tolist() == pytest.approx([1.0, 0.2 * math.sqrt(0.9) / 0.28])
    assert of_x_t.tolist() == pytest.approx([0.0, 0.1 * math.sqrt(0.8) / 0.28])


def test_posterior_mean_of_the_forward_mean_is_the_forward_mean_one_step_before():
    variances = noise_variances(6, 0.3, 0.01)
    of_x_0, of_x_t = posterior_mean_weights(variances)
    means = (1 - variances).sqrt()  # of x_t for x_0 = 1
    assert torch.allclose((of_x_0 + of_x_t * means)[1:], means[:-1])


def test_steps_are_uniform_until_every_step_has_its_history():
    sampler = StepSampler(3, history=2)
    sampler.record(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([9.0, 9.0, 1.0, 1.0, 5.0]))
    assert sampler.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    _, weights = sampler.sample(100)
    assert weights.tolist() == pytest.approx([1.0] * 100)
    sampler.record(torch.tensor([2]), torch.tensor([5.0]))
    assert sampler.probabilities().tolist() != pytest.approx([1 / 3] * 3)


def test_probabilities_follow_the_root_mean_square_with_a_floor():
    sampler = StepSampler(2, history=2, floor=0.1)
    sampler.record(torch.tensor([0, 0, 1, 1]), torch.tensor([3.0, 4.0, 1.0, 1.0]))
    rms = math.sqrt(12.5)
    expected = [0.9 * rms / (rms + 1) + 0.05, 0.9 / (rms + 1) + 0.05]
    assert sampler.probabilities().tolist() == pytest.approx(expected)


def test_steps_are_drawn_as_often_as_their_probability_says():
    torch.manual_seed(0)
    sampler = StepSampler(4, history=1)
    sampler.record(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    steps, _ = sampler.sample(100_000)
    assert steps.dtype == torch.int64
    frequencies = torch.bincount(steps, minlength=4) / 100_000
    assert torch.allclose(frequencies, sampler.probabilities(), atol=0.006)


def test_the_history_keeps_the_latest_losses_whatever_the_batches():
    sampler = StepSampler(2, history=3)
    sampler.record(torch.tensor([0, 1, 0]), torch.tensor([1.0, 10.0, 2.0]))
    sampler.record(torch.tensor([0, 0]), torch.tensor([3.0, 4.0]))
    assert sorted(sampler.losses[0].tolist()) == [2.0, 3.0, 4.0]
    sampler.record(torch.zeros(5, dtype=torch.int64), torch.arange(5.0, 10.0))
    assert sorted(sampler.losses[0].tolist()) == [7.0, 8.0, 9.0]
    assert sampler.losses[1].tolist() == [10.0, 0.0, 0.0]


def test_all_losses_zero_means_uniform_steps():
    sampler = StepSampler(2, history=1)
    sampler.record(torch.tensor([0, 1]), torch.zeros(2))
    assert sampler.probabilities().tolist() == pytest.approx([0.5, 0.5])


def test_means_are_recorded_once_per_step_that_occurs():
    sampler = StepSampler(3, history=2)
    sampler.record_means(torch.tensor([2, 0, 2, 2]), torch.tensor([1.0, 7.0, 2.0, 6.0]))
    assert sampler.losses.tolist() == [[7.0, 0.0], [0.0, 0.0], [3.0, 0.0]]
    assert sampler.seen.tolist() == [1, 0, 1]


def test_the_history_is_no_part_of_what_was_learned():
    assert not StepSampler(3).state_dict()


@settings(max_examples=50)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 100.0)), max_size=12), max_size=6),
)
def test_sampler_agrees_with_a_plain_list_per_step(diffusion_steps, history, batches):
    sampler, lists = StepSampler(diffusion_steps, history), [[] for _ in range(diffusion_steps)]
    for batch in batches:
        batch = [(step % diffusion_steps, loss) for step, loss in batch]
        sampler.record(
            torch.tensor([step for step, _ in batch], dtype=torch.int64),
            torch.tensor([loss for _, loss in batch]),
        )
        for step, loss in batch:
            lists[step] = [*lists[step], loss][-history:]
    for step, kept in enumerate(lists):
        padded = sorted(kept + [0.0] * (history - len(kept)))
        assert sorted(sampler.losses[step].tolist()) == pytest.approx(padded)
    probabilities = sampler.probabilities()
    assert probabilities.sum().item() == pytest.approx(1.0)
    assert probabilities.min().item() >= 0.001 / diffusion_steps * 0.999
    # Under n_t the weights 1 / (T n_t) average 1.
    assert (probabilities / (diffusion_steps * probabilities)).sum().item() == pytest.approx(1.0)
