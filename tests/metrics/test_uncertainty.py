from functools import reduce
from math import erf, exp, pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.metrics.uncertainty import Summary, coverage, energy_score, expected_coverage, rank_histogram, ranks

SHAPE = (4, 5, 3)
NUM_SAMPLES = 12
CHUNKS = {"at once": (12,), "one by one": (1,) * 12, "uneven": (5, 1, 6)}
# A large image of independent entries: every entry is a trial of its own.
WIDE = (100, 100, 1)
SEEDS = 19
# One compiled program each, rather than one per operation.
count_ranks, quantile = jax.jit(ranks), jax.jit(Summary.quantile)
score_many = jax.jit(jax.vmap(energy_score))


def draw(seed, shape=(NUM_SAMPLES, *SHAPE), std=0.4):
    return np.random.default_rng(seed).normal(0, std, shape).astype(np.float32)


def summarise(samples, chunks=CHUNKS["at once"], **kwargs):
    start = Summary.start(samples.shape[1:], **kwargs)
    return reduce(Summary.add, np.split(samples, np.cumsum(chunks)[:-1]), start)


def exchangeable(spread=1.0, bias=0.0):
    """Samples and truth of one distribution, then the samples made wider or shifted."""
    draws = draw(1, (SEEDS + 1, *WIDE), std=0.25)
    return spread * draws[1:] + bias, draws[0]


def assert_same(a, b):
    assert a.count == b.count
    np.testing.assert_array_equal(a.histogram, b.histogram)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-6)
    np.testing.assert_allclose(a.std, b.std, rtol=1e-5)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_a_stream_has_the_moments_of_the_whole(chunks):
    samples = draw(0)
    summary = summarise(samples, chunks)
    assert summary.count == NUM_SAMPLES
    np.testing.assert_allclose(summary.mean, samples.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(summary.std, samples.std(0, ddof=1, dtype=np.float64), rtol=1e-5)
    np.testing.assert_array_equal(summary.histogram.sum(-1), np.full(SHAPE, NUM_SAMPLES))
    assert_same(summary, summarise(samples))


def test_merging_goes_in_any_order_and_grouping():
    samples = draw(0)
    a, b, c = (summarise(part) for part in np.split(samples, [5, 6]))
    empty = Summary.start(SHAPE)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), empty.merge(c.merge(b)).merge(a)):
        assert_same(merged, summarise(samples))
    assert_same(a.merge(empty), a)


def test_a_small_spread_survives_a_large_mean():
    samples = 1000 + draw(0, (60, *SHAPE), std=0.01)
    exact = samples.std(0, ddof=1, dtype=np.float64)
    for chunks in ((60,), (1,) * 60):
        summary = summarise(samples, chunks)
        np.testing.assert_allclose(summary.std, exact, rtol=0.01)
        # Each of n additions rounds the mean by 6e-5 / sqrt(12) and is diluted by the later ones: sqrt(n / 3) of that
        # in the end, 8e-5; four times as much.
        np.testing.assert_allclose(summary.mean, samples.mean(0, dtype=np.float64), atol=3.2e-4)
    naive = (samples**2).mean(0) - samples.mean(0) ** 2
    assert np.abs(naive / exact**2 - 1).max() > 10, "the textbook formula should fail here"


def test_counts_are_exact_where_float32_is_not():
    summary = Summary(
        jnp.int32(2**24), jnp.zeros(SHAPE), jnp.zeros(SHAPE), jnp.full((*SHAPE, 2), 2**24, jnp.int32), -1.0, 1.0
    )
    summary = summary.add(jnp.ones((1, *SHAPE)))
    assert summary.count == 2**24 + 1
    assert (summary.histogram[..., 1] == 2**24 + 1).all()


@pytest.mark.parametrize(("num_samples", "num_bins"), [(1, 16), (2, 16), (400, 16), (400, 128)])
def test_quantiles_are_those_of_the_clipped_samples_to_one_bin(num_samples, num_bins):
    samples = draw(2, (num_samples, *SHAPE), std=0.7)
    summary = summarise(samples, (num_samples,), num_bins=num_bins, low=-1.2, high=1.4)
    for q in (0.0, 0.05, 0.31, 0.5, 0.975, 1.0):
        exact = np.quantile(np.clip(samples, -1.2, 1.4), q, axis=0)
        np.testing.assert_array_less(np.abs(quantile(summary, q) - exact), 2.6 / num_bins + 1e-5)


def test_many_samples_make_quantiles_finer_than_a_bin():
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, *SHAPE)).astype(np.float32)
    summary = summarise(samples, (5000,), num_bins=4)
    # Of 1250 samples in a bin of width 1/2, the share below its middle has a standard error of 0.014; four of those.
    np.testing.assert_allclose(quantile(summary, 0.3), np.quantile(samples, 0.3, axis=0), atol=0.028)


def test_what_needs_more_samples_is_nan():
    one = Summary.start(SHAPE).add(np.zeros((1, *SHAPE), np.float32))
    assert np.isnan(one.std).all()
    assert np.isnan(quantile(Summary.start(SHAPE), 0.5)).all()


def test_vmap_and_jit_equal_a_loop():
    samples, truths = draw(3, (3, NUM_SAMPLES, *SHAPE)), draw(4, (3, *SHAPE))

    @jax.jit
    def everything(samples, truth):
        summary = Summary.start(SHAPE).add(samples)
        places = ranks(jax.random.key(0), samples, truth)
        return (
            *(summary.mean, summary.std, summary.quantile(0.3), places, rank_histogram(places, NUM_SAMPLES)),
            *(coverage(samples, truth, 0.8), coverage(summary, truth, 0.8), energy_score(samples, truth)),
        )

    for i, together in enumerate(zip(*jax.vmap(everything)(samples, truths), strict=True)):
        for one, alone in zip(together, everything(samples[i], truths[i]), strict=True):
            np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-6)


def test_expected_coverage_is_the_share_of_places_between_the_ends():
    np.testing.assert_allclose(expected_coverage(19, 0.9), 0.9, rtol=1e-6)
    np.testing.assert_allclose(expected_coverage(2, 0.9), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(expected_coverage(50, 0.01), 1 / 51, rtol=1e-6)
    for n in (7, 20, 99):
        places = [1 - 2 * k / (n + 1) for k in range(1, n // 2 + 1)]
        for level in (0.3, 0.52, 0.68, 0.9):
            nearest = min(places, key=lambda place: abs(place - level))
            np.testing.assert_allclose(expected_coverage(n, level), nearest, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [2, 19])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_is_nominal_when_exchangeable(num_samples, level):
    samples, truth = exchangeable()
    expected = float(expected_coverage(num_samples, level))
    # Four standard errors of 10 000 independent entries.
    bound = 4 * sqrt(expected * (1 - expected) / truth.size)
    np.testing.assert_allclose(coverage(samples[:num_samples], truth, level), expected, atol=bound)


def test_coverage_of_wrong_samples_is_far_from_nominal():
    assert coverage(*exchangeable(spread=0.5), 0.8) < 0.55
    assert coverage(*exchangeable(spread=2.0), 0.8) > 0.95
    assert coverage(*exchangeable(bias=0.4), 0.8) < 0.45


def test_a_summary_covers_a_little_more_than_its_samples():
    samples, truth = exchangeable()
    summary = summarise(samples, (SEEDS,))
    for level in (0.5, 0.9):
        exact, binned = coverage(samples, truth, level), coverage(summary, truth, level)
        # One bin of 1/64 holds at most 2.5% of a Gaussian of standard deviation 1/4.
        assert exact <= binned <= exact + 0.025


def test_coverage_counts_chosen_entries_ties_and_clipped_values():
    samples, truth = draw(5), np.ones(SHAPE, np.float32)
    samples[:, 0] = 1.0
    top_row = np.zeros(SHAPE, bool)
    top_row[0] = True
    for given in (samples, summarise(samples)):
        assert coverage(given, truth, 0.5, where=top_row) == 1
        assert coverage(given, truth, 0.5, where=~top_row) == 0
        np.testing.assert_allclose(coverage(given, truth, 0.5), 0.25)
    assert coverage(summarise(2 * np.ones_like(samples)), 3 * truth, 0.5) == 1


def chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("num_bins", [None, 10])
def test_ranks_are_uniform_when_exchangeable(num_bins):
    counts = rank_histogram(count_ranks(jax.random.key(0), *exchangeable()), SEEDS, num_bins)
    assert counts.sum() == WIDE[0] * WIDE[1]
    # Chi-square has mean `bins - 1` and variance `2 (bins - 1)`; four standard deviations.
    freedom = counts.size - 1
    assert chi_square(counts) < freedom + 4 * sqrt(2 * freedom)


def test_ranks_show_what_is_wrong():
    key = jax.random.key(0)
    sure, spread, biased = (
        np.asarray(rank_histogram(count_ranks(key, *exchangeable(**wrong)), SEEDS, 4))
        for wrong in ({"spread": 0.5}, {"spread": 2.0}, {"bias": 0.25})
    )
    assert min(sure[0], sure[3]) > 1.5 * max(sure[1], sure[2])
    assert min(spread[1], spread[2]) > 1.5 * max(spread[0], spread[3])
    assert (np.diff(biased) < 0).all()


def test_ties_are_split_at_random():
    samples, truth = (np.round(8 * draws) / 8 for draws in exchangeable())
    counts = rank_histogram(count_ranks(jax.random.key(1), samples, truth), SEEDS)
    assert chi_square(counts) < SEEDS + 4 * sqrt(2 * SEEDS)
    same = ranks(jax.random.key(2), np.zeros((4, *SHAPE), np.float32), np.zeros(SHAPE, np.float32))
    assert set(np.unique(same)) == set(range(5))


def test_ranks_count_the_samples_below():
    samples = np.linspace(-0.9, 0.9, 10, dtype=np.float32)[:, None, None, None] * np.ones(SHAPE, np.float32)
    for value, rank in ((-1, 0), (0, 5), (0.75, 9), (1, 10)):
        assert (ranks(jax.random.key(0), samples, np.full(SHAPE, value, np.float32)) == rank).all()


def test_energy_score_is_the_double_loop():
    samples, truth = draw(6).astype(np.float64), draw(7, SHAPE).astype(np.float64)
    near = np.mean([np.linalg.norm(x - truth) for x in samples])
    pairs = [np.linalg.norm(samples[i] - samples[j]) for i in range(NUM_SAMPLES) for j in range(i)]
    score = energy_score(samples.astype(np.float32), truth.astype(np.float32))
    np.testing.assert_allclose(score, near - np.mean(pairs) / 2, rtol=1e-5)


def test_energy_score_of_one_entry_is_the_crps():
    # CRPS of N(0, 1) at x: x (2 Phi(x) - 1) + 2 phi(x) - 1 / sqrt(pi), Gneiting & Raftery 2007, equation 21.
    samples = draw(8, (200, 64, 1, 1, 1), std=1.0)
    for x in (0.0, 0.7, -2.0):
        scores = score_many(samples, np.full((200, 1, 1, 1), x, np.float32))
        closed_form = x * erf(x / sqrt(2)) + 2 * exp(-(x**2) / 2) / sqrt(2 * pi) - 1 / sqrt(pi)
        error = scores.std(ddof=1) / sqrt(len(scores))
        assert abs(scores.mean() - closed_form) < 4 * error
        assert error < 0.01


@pytest.mark.parametrize("wrong", [{"bias": 0.1}, {"spread": 0.6}, {"spread": 1.6}], ids=str)
def test_energy_score_is_lowest_for_the_right_distribution(wrong):
    truths, samples = draw(9, (2000, *SHAPE)), draw(10, (2000, 4, *SHAPE))
    worse = wrong.get("spread", 1.0) * samples + wrong.get("bias", 0.0)
    difference = np.asarray(score_many(worse, truths) - score_many(samples, truths))
    assert difference.mean() > 5 * difference.std(ddof=1) / sqrt(len(difference))


def test_energy_score_has_a_gradient_at_equal_samples():
    gradient = jax.jit(jax.grad(energy_score))(jnp.zeros((3, *SHAPE)), jnp.ones(SHAPE))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_wrong_arguments_are_refused(unchecked):
    samples, truth, key = draw(0), draw(1, SHAPE), jax.random.key(0)
    summary = summarise(samples)
    refused = {
        "got float32": (
            lambda: summary.add(samples[:, :-1]),
            lambda: summary.add(truth),
            lambda: coverage(samples, truth[..., :1], 0.5),
            lambda: coverage(summary, truth[..., :1], 0.5),
            lambda: ranks(key, samples, samples),
            lambda: energy_score(samples[:, 0], truth),
        ),
        "float samples": (lambda: summary.add(np.zeros((2, *SHAPE), np.uint8)), lambda: summary.add(samples[:0])),
        "at least 2 float samples": (
            lambda: energy_score(samples[:1], truth),
            lambda: coverage(samples[:1], truth, 0.5),
        ),
        "at least two samples": (
            lambda: coverage(Summary.start(SHAPE).add(samples[:1]), truth, 0.5),
            lambda: expected_coverage(1, 0.5),
        ),
        "0 < `level` < 1": (lambda: coverage(samples, truth, 1.0), lambda: expected_coverage(9, 90)),
        "`q` must be": (lambda: summary.quantile(50),),
        "must agree": (
            lambda: summary.merge(Summary.start(SHAPE, num_bins=64)),
            lambda: summary.merge(Summary.start(SHAPE, low=0)),
            lambda: summary.merge(Summary.start((4, 5, 1))),
        ),
        "`low` < `high`": (lambda: Summary.start(SHAPE, low=1), lambda: Summary.start((4, 4))),  # pyright: ignore
        "must divide": (lambda: rank_histogram(ranks(key, samples, truth), NUM_SAMPLES, 5),),
        "integers in 0 ... 3": (lambda: rank_histogram(np.array([4]), 3), lambda: rank_histogram(np.array([0.5]), 3)),
    }
    for message, calls in refused.items():
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call()
