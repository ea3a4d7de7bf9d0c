"""Every method's program lowers for GPUs and TPUs, from any machine, and holds nothing that is slow or heavy there."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Denoiser, Measurement, load_prior, time_grid
from jaxdiff.chains import archive
from jaxdiff.chains.program import advance_chains, start_chains, start_observing
from jaxdiff.errors import UnsuitableMethod
from jaxdiff.metrics.diagnosis import Diagnose
from jaxdiff.networks.ffdnet import FFDNetConfig
from jaxdiff.networks.rms_unet import RMSUNetConfig
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.operators import Mask
from jaxdiff.priors.config import NetworkConfig, PriorConfig
from jaxdiff.pytree import as_pytree
from jaxdiff.runs.fitting import fitted_prior
from jaxdiff.runs.methods import METHODS, make_run
from jaxdiff.samplers.base import visit_numbers
from tests.conftest import SAMPLERS, SIGMA_Y, gaussian_prior, random_network, sampler_of
from tests.operators.conftest import OPERATORS

PLATFORMS = ("cuda", "tpu")
TIMES = time_grid(1000, 3)
ALLOWED = {"cu_threefry2x32_ffi", "cusolver_syevd_ffi", "Eigh"}
"""Custom calls that JAX keeps stable: random bits, and the eigenvalues that `Matheron` takes of its small matrix. A
callback to the host is a custom call too."""

BYTES = {"i1": 1, "i8": 1, "ui8": 1, "i16": 2, "ui16": 2, "f16": 2, "bf16": 2, "i64": 8, "ui64": 8, "complex<f32>": 8}
"""Of an entry, where these are not four."""


def constants(module: str) -> Iterator[int]:
    """Bytes of every constant of a program in StableHLO; one number that is repeated takes none."""
    for shape, kind in re.findall(r'constant dense<["\[].*> : tensor<((?:\d+x)+)([^>]+>?)>', module):
        yield int(np.prod([int(side) for side in shape.split("x")[:-1]])) * BYTES.get(kind, 4)


def faults(module: str, largest: int) -> list[str]:
    """What a program should not hold."""
    found = [f"custom call {name}" for name in set(re.findall(r"custom_call @([\w.]+)", module)) - ALLOWED]
    found += ["64-bit numbers"] if "f64" in module else []
    return found + [f"a constant of {size} bytes" for size in constants(module) if size > largest]


def exported(sampler: Any) -> str:
    return archive.export(sampler, TIMES, 2, platforms=PLATFORMS).mlir_module()


NETWORKS: dict[str, NetworkConfig] = {
    "unet": UNetConfig(8, 8, (1,), 1, (8,), num_heads=2, out_channels=6, norm_groups=4),
    "ffdnet": FFDNetConfig(8, channels=8, depth=3),
    "rms unet": RMSUNetConfig(8, 8, (1,), (True,), 8, num_heads=2, num_head_channels=4),
}
PIXELS = Mask(np.eye(8, dtype=np.float32)[..., None])
MEASURED = ("random", "gaussian blur", "fourier", "hadamard", "phase retrieval")
"""Rows of the table of operators."""


def network_prior(kind: str) -> Denoiser:
    """A prior with a network of random weights."""
    config = NETWORKS[kind]
    predicts: Any = {} if kind == "unet" else {"target": "x0", "variance": "fixed_small"}
    return PriorConfig(config, **predicts).make_denoiser(random_network(config))


def method_on(method: str, prior: Any, operator: Any) -> Any:
    """A row of the table of methods with a measurement of zeros; skipped where it refuses the operator."""
    shape = jax.eval_shape(operator, jax.ShapeDtypeStruct(prior.image_shape, jnp.float32))
    measurement = Measurement(operator, jnp.zeros(shape.shape, shape.dtype), SIGMA_Y)
    try:
        return make_run(method, "inpaint", prior, measurement, len(TIMES) - 1).sampler
    except UnsuitableMethod as error:
        pytest.skip(str(error))


def test_what_a_program_should_not_hold_is_found():
    def seen(function: Any, largest: int = 1199) -> list[str]:
        return faults(jax.jit(function).lower(x).as_text(), largest)

    x, held = jnp.linspace(0, 1, 300), np.arange(300, dtype=np.float32)
    assert [word[:11] for word in seen(lambda x: jax.pure_callback(np.sin, x, x))] == ["custom call"]
    assert seen(lambda x: x + held) == ["a constant of 1200 bytes"]
    assert seen(lambda x: x + held, 1200) == seen(lambda x: x + jnp.full((2000, 300), 3.0)) == []
    with jax.enable_x64(True):
        assert seen(lambda x: x.astype(jnp.float64)) == ["64-bit numbers"]


@pytest.mark.parametrize(("method", "kind"), [("pigdm", "ffdnet"), ("ddnm", "unet")])
def test_a_network_under_a_method_lowers_for_accelerators(method, kind):
    assert faults(exported(method_on(method, network_prior(kind), PIXELS)), 2**10) == []


@pytest.mark.thorough
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_network_lowers_under_every_method(method, kind):
    assert faults(exported(method_on(method, network_prior(kind), PIXELS)), 2**10) == []


@pytest.mark.thorough
@pytest.mark.parametrize("operator", MEASURED)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_with_every_kind_of_operator(method, operator):
    assert faults(exported(method_on(method, gaussian_prior(), OPERATORS[operator].make())), 2**10) == []


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - METHODS.keys()))
def test_every_other_sampler_lowers(name):
    assert faults(exported(sampler_of(name)), 2**10) == []


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "side", "method"), [("faces-32", 32, "dps"), ("photos", 300, "ddnm")])
def test_the_program_of_many_chains_lowers_for_a_shipped_prior_with_its_observer(name, side, method):
    """At full size, where a mask or a weight that is no argument would be a large constant."""
    prior = fitted_prior(load_prior(name), (side, side, 3))
    sampler = method_on(method, prior, Mask(np.ones((side, side, 1), np.float32)))
    observer = Diagnose(prior.schedule, sampler.measurement)
    keys = jax.random.split(jax.random.key(0), 2)
    seen, state = start_observing(observer, 2), start_chains(sampler, keys, jnp.asarray(TIMES[0]))
    times = jnp.asarray(TIMES), jnp.asarray(visit_numbers(TIMES))
    traced = advance_chains.trace(as_pytree(sampler), as_pytree(observer), keys, state, seen, *times)
    assert faults(traced.lower(lowering_platforms=PLATFORMS).as_text(), 2**20) == []
