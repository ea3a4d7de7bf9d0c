"""Phase retrieval: the pictures that it takes for one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import PhaseRetrieval

X = jnp.tanh(jax.random.normal(jax.random.key(0), (8, 6, 3)))


def same(operator, one, other):
    return float(jnp.abs(operator(one) - operator(other)).max()) < 1e-5


def test_which_pictures_have_the_same_amplitudes():
    """Turned ones do, of any colour; negatives without the shift; translated ones of black margins; no others."""
    shifted, plain = PhaseRetrieval(), PhaseRetrieval(shifted=False)
    turned = X.at[..., 1].set(X[::-1, ::-1, 1])
    for operator, black in ((shifted, -1.0), (plain, 0.0)):
        assert same(operator, X, turned)
        inner = jnp.full_like(X, black).at[1:5, 2:4].set(X[1:5, 2:4])
        assert same(operator, inner, jnp.roll(inner, (2, -1), (0, 1)))
        assert not same(operator, X, jnp.roll(X, 1, 0))
        assert not same(operator, X, X[::-1])
        assert same(operator, X, -X) == (operator is plain)


def test_sides_are_those_of_the_dps_code():
    """256 pixels and 64 on either side."""
    y = jax.eval_shape(PhaseRetrieval(), jax.ShapeDtypeStruct((256, 256, 3), jnp.float32))
    assert y.shape == (384, 384, 3)


def test_where_an_amplitude_is_zero_the_gradient_is_finite():
    gradient = jax.grad(lambda x: PhaseRetrieval(shifted=False)(x).sum())(jnp.zeros((8, 6, 3)))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("oversampling", [-1.0, float("nan"), float("inf")])
def test_bad_oversampling_is_refused(oversampling):
    with pytest.raises(ValueError, match="oversampling"):
        PhaseRetrieval(oversampling)
