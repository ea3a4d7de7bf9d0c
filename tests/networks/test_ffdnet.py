"""FFDNet: parity with a restatement in PyTorch, any size, and the way through a prior folder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert_weights.formats.ffdnet import ffdnet_from_torch
from jaxdiff.networks.ffdnet import FFDNet, FFDNetConfig
from jaxdiff.priors.config import PriorConfig, PriorError
from jaxdiff.priors.storage import load_prior, save_prior, with_parameters

CHANNELS, DEPTH = 16, 5


def torch_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    widths = [13, *[CHANNELS] * (DEPTH - 1), 12]
    weights = {}
    for i in range(DEPTH):
        fan_in = 9 * widths[i]
        weights[f"{2 * i}.weight"] = rng.normal(size=(widths[i + 1], widths[i], 3, 3)) * (2 / fan_in) ** 0.5
        weights[f"{2 * i}.bias"] = 0.1 * rng.normal(size=widths[i + 1])
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def our_network(**options: Any) -> FFDNet:
    weights, config = ffdnet_from_torch(torch_weights())
    assert config == FFDNetConfig(channels=CHANNELS, depth=DEPTH)
    return with_parameters(nnx.eval_shape(lambda: FFDNet(config, rngs=nnx.Rngs(0), **options)), weights)


def test_published_size():
    network = nnx.eval_shape(lambda: FFDNet(FFDNetConfig(), rngs=nnx.Rngs(0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(network, nnx.Param))) == 852_108


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (3, 8), (1, 1)])
def test_output_and_input_gradient_are_those_of_pytorch(shape):
    torch = pytest.importorskip("torch")

    def original(x, sigma):
        """`models/network_ffdnet.py` of KAIR, with the published activation."""
        h, w = x.shape[-2:]
        x = torch.nn.functional.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
        x = torch.nn.functional.pixel_unshuffle(x, 2)
        x = torch.cat([x, torch.full_like(x[:, :1], sigma)], 1)
        for i in range(DEPTH):
            weight, bias = (torch.from_numpy(torch_weights()[f"{2 * i}.{leaf}"]) for leaf in ("weight", "bias"))
            x = torch.nn.functional.conv2d(x, weight, bias, padding=1)
            x = x if i == DEPTH - 1 else torch.relu(x)
        return torch.nn.functional.pixel_shuffle(x, 2)[..., :h, :w]

    rng = np.random.default_rng(1)
    image, direction = rng.uniform(size=(2, *shape, 3)).astype(np.float32)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None]).requires_grad_()
    wanted = original(x, 0.2)
    (wanted * torch.from_numpy(direction.transpose(2, 0, 1)[None])).sum().backward()
    found, pull_back = jax.vjp(lambda image: our_network()(image, 0.2), jnp.asarray(image))
    np.testing.assert_allclose(found, wanted.detach()[0].permute(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(pull_back(jnp.asarray(direction))[0], x.grad[0].permute(1, 2, 0), atol=1e-5)


def test_rematerialised_gradient_is_the_same():
    image = jnp.linspace(0, 1, 5 * 4 * 3).reshape(5, 4, 3)
    plain, saving = our_network(), our_network(remat=True)
    wanted = jax.grad(lambda image: plain(image, 0.1).std())(image)
    np.testing.assert_allclose(jax.grad(lambda image: saving(image, 0.1).std())(image), wanted, atol=1e-6)


def test_tensors_that_do_not_fit_are_named():
    whole = torch_weights()
    with pytest.raises(ValueError, match=r"`8.bias` is missing"):
        ffdnet_from_torch({name: w for name, w in whole.items() if name != "8.bias"})
    with pytest.raises(ValueError, match=r"`9.weight` has no place|convolutions 0, 2, 4"):
        ffdnet_from_torch(whole | {"9.weight": whole["8.weight"]})
    with pytest.raises(ValueError, match=r"`head.weight` has no place"):
        ffdnet_from_torch(whole | {"head.weight": whole["8.weight"]})
    with pytest.raises(ValueError, match=r"`0.weight` is float32 \(16, 13, 3, 1\)"):
        ffdnet_from_torch(whole | {"0.weight": whole["0.weight"][..., :1]})


def test_a_prior_folder_keeps_it_bit_for_bit_and_takes_any_size(tmp_path):
    weights, network = ffdnet_from_torch(torch_weights())
    save_prior(tmp_path / "prior", weights, PriorConfig(network, target="x0", variance="fixed_small"))
    prior = load_prior(tmp_path / "prior").at((7, 12, 3))
    x_t = jax.random.normal(jax.random.key(0), (7, 12, 3))
    alpha_t, sigma_t = prior.schedule(40)
    expected = 2 * our_network()((x_t / alpha_t + 1) / 2, sigma_t / alpha_t / 2) - 1
    np.testing.assert_allclose(prior.predict(x_t, 40).before_clip, expected, atol=1e-6)
    config = (tmp_path / "prior" / "config.json").read_text()
    (tmp_path / "prior" / "config.json").write_text(config.replace('"ffdnet"', '"other"'))
    with pytest.raises(PriorError, match="is of kind 'other', this version reads unet, ffdnet"):
        load_prior(tmp_path / "prior")
