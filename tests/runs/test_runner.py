"""Running with a file to go on from: nothing lost, and not a bit different."""

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxdiff import DDPM, DPS, time_grid
from jaxdiff.chains.memory import Plan
from jaxdiff.errors import UserError
from jaxdiff.measurement import Measurement
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis
from jaxdiff.runs import runner
from jaxdiff.runs.folder import read_npz
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import draw, sample_keys
from jaxdiff.runs.scores import residual_text
from tests.conftest import SHAPE, SIGMA_Y, sampler_of, small_problem

KEYS = jax.random.split(jax.random.key(0), 5)


@pytest.fixture(autouse=True)
def keep_every_segment(monkeypatch):
    monkeypatch.setattr(runner, "KEEP_EVERY", 0.0)


def make_run():
    return Run(DPS(*small_problem(), zeta=0.1), time_grid(1000, 40), {})


def make_observer():
    prior, measurement = small_problem()
    return Diagnose(prior.schedule, measurement)


class Killed(BaseException):
    """Ends a run as a kill does: nothing that it had in mind is written any more."""


def killed_at(count):
    """Returns a residual that kills the run at its `count`-th segment."""
    calls = 0

    def residual(x0_hat):
        nonlocal calls
        calls += 1
        if calls == count:
            raise Killed
        return ""

    return residual


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    run, console, observer = make_run(), Console(quiet=True), make_observer()
    whole = draw("whole", run, KEYS, tmp_path / "whole.npz", console, batch_size=2, observer=observer)
    assert whole.samples.shape == (5, *SHAPE)
    assert len(whole.frames) == runner.SNAPSHOTS
    assert not whole.resumed
    store = tmp_path / "killed.npz"
    # Three batches of 20 segments: inside the first, at the end of one, at the beginning of the next, in the last.
    for count in (7, 14, 1, 2, 30):
        with pytest.raises(Killed):
            draw("killed", run, KEYS, store, console, batch_size=2, residual=killed_at(count), observer=observer)
        assert store.with_suffix(".partial.npz").exists() or count == 1
        assert not store.exists()
    rest = draw("killed", run, KEYS, store, console, batch_size=2, observer=observer)
    assert rest.resumed
    np.testing.assert_array_equal(rest.samples, whole.samples)
    np.testing.assert_array_equal(rest.frames, whole.frames)
    again = draw("read", run, KEYS, store, console, batch_size=2, observer=observer)
    for found in (rest, again):
        assert found.curve is not None
        jax.tree.map(np.testing.assert_array_equal, found.curve, whole.curve)
    assert rest.timing.run_seconds > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.npz", "whole.npz"]


def test_what_was_observed_is_put_to_the_sample_it_belongs_to(tmp_path):
    run, console, observer = make_run(), Console(quiet=True), make_observer()
    one, two = (
        draw("run", run, KEYS, tmp_path / f"{size}.npz", console, batch_size=size, observer=observer) for size in (5, 2)
    )
    assert one.curve is not None
    assert two.curve is not None
    assert [leaf.shape for leaf in two.curve] == [(runner.SNAPSHOTS, 5)] * len(Diagnosis._fields)
    for found, wanted in zip(two.curve, one.curve, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-4)
    assert one.diagnosis is not None
    np.testing.assert_array_equal(one.diagnosis.residual, one.curve.residual[-1])
    assert len(np.unique(one.diagnosis.residual)) == 5
    assert (one.curve.steps[:, 0] == np.arange(2, 41, 2)).all()


def test_what_was_not_observed_is_not_there(tmp_path):
    run, console, store = make_run(), Console(quiet=True), tmp_path / "run.npz"
    drawn = draw("run", run, KEYS, store, console)
    assert drawn.curve is None
    assert drawn.diagnosis is None
    assert set(read_npz(store)) == {"samples", "frames", "seconds"}
    assert draw("read", run, KEYS, store, console, observer=make_observer()).diagnosis is None
    # A chain of which a part was not observed cannot be judged: it starts anew.
    store.unlink()
    with pytest.raises(Killed):
        draw("killed", run, KEYS, store, console, residual=killed_at(3))
    anew = draw("anew", run, KEYS, store, console, observer=make_observer())
    assert not anew.resumed
    assert anew.diagnosis is not None
    np.testing.assert_array_equal(anew.diagnosis.steps, 40)


def test_another_batch_size_starts_anew(tmp_path):
    run, console, store = make_run(), Console(quiet=True), tmp_path / "run.npz"
    with pytest.raises(Killed):
        draw("killed", run, KEYS, store, console, batch_size=2, residual=killed_at(30))
    anew = draw("anew", run, KEYS, store, console, batch_size=5)
    assert not anew.resumed
    again = draw("again", run, KEYS, store, console, batch_size=2)
    assert again.resumed
    np.testing.assert_array_equal(again.samples, anew.samples)


def test_damage_and_divergence_are_one_sentence(tmp_path):
    console, store = Console(quiet=True), tmp_path / "run.npz"
    diverging = Run(DPS(*small_problem(), zeta=float("nan")), time_grid(1000, 40), {})
    with pytest.raises(UserError, match=r"diverged .* by step 2 of 40") as error:
        draw("NaN", diverging, KEYS, store, console)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"diverged .* at time 999, in step 1 of 40; look for NaN"):
        draw("NaN", diverging, KEYS, store, console, observer=make_observer())
    assert not store.exists()
    for name in ("run.npz", "run.partial.npz"):
        (tmp_path / name).write_bytes(b"PK\3\4 not an archive")
        with pytest.raises(UserError, match=f"{name} is damaged"):
            draw("damaged", make_run(), KEYS, store, console)
        (tmp_path / name).unlink()


@pytest.mark.thorough
def test_a_start_of_ones_own_is_kept_too(tmp_path):
    prior, _ = small_problem()
    console, store = Console(quiet=True), tmp_path / "run.npz"
    start = 0.1 * jax.random.normal(jax.random.key(2), (5, *SHAPE))
    run = Run(DDPM(prior), time_grid(1000, 20, 300), {}, state=start)
    whole = draw("whole", run, KEYS, tmp_path / "whole.npz", console)
    with pytest.raises(Killed):
        draw("killed", run, KEYS, store, console, residual=killed_at(10))
    np.testing.assert_array_equal(draw("killed", run, KEYS, store, console).samples, whole.samples)
    anew = draw("anew", Run(run.sampler, run.times, {}), KEYS, tmp_path / "anew.npz", console)
    assert np.abs(anew.samples - whole.samples).max() > 0.1


def test_a_state_that_is_no_image_is_kept_too(tmp_path):
    console, store = Console(quiet=True), tmp_path / "run.npz"
    run = Run(sampler_of("no image as state"), time_grid(1000, 20), {})
    whole = draw("whole", run, KEYS, tmp_path / "whole.npz", console)
    with pytest.raises(Killed):
        draw("killed", run, KEYS, store, console, residual=killed_at(10))
    rest = draw("killed", run, KEYS, store, console)
    assert rest.resumed
    assert rest.samples.shape == (5, *SHAPE)
    np.testing.assert_array_equal(rest.samples, whole.samples)


def test_the_residual_is_in_units_of_the_noise():
    _, measurement = small_problem()
    exact = Measurement(measurement.operator, measurement.y, 0.0)
    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    seen = np.asarray(measurement.observed) > 0
    rms = [float(np.sqrt(np.mean(np.asarray(measurement.residual(one))[seen] ** 2))) for one in x]
    assert residual_text(measurement)(x) == f"residual {np.mean(rms) / SIGMA_Y:.2f} x noise"
    assert residual_text(exact)(x) == f"residual {np.mean(rms):.3f}"


def test_more_samples_change_none_of_the_first():
    few, more = (jax.random.key_data(sample_keys(0, count)) for count in (3, 5))
    np.testing.assert_array_equal(more[:3], few)
    assert len(np.unique(more, axis=0)) == 5


@pytest.mark.slow
def test_a_run_with_auto_keeps_its_batch_size_where_it_still_fits(tmp_path, monkeypatch):
    run, console, store = make_run(), Console(quiet=True), tmp_path / "auto.npz"

    def draw_with(fits, **options):
        monkeypatch.setattr(runner, "plan", lambda *arguments, **options: Plan(0, 100, 112 * fits))
        return draw("auto", run, KEYS, store, console, batch_size="auto", **options)

    for now, resumed in ((4, True), (2, False)):
        with pytest.raises(Killed):
            draw_with(3, residual=killed_at(9))
        assert draw_with(now).resumed == resumed
        store.unlink()
