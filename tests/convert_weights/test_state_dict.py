"""A network's weights are found in whatever a trainer saved, averages before others; nothing is chosen in silence."""

from collections import OrderedDict

import numpy as np
import pytest

from convert_weights.checkpoint import read_checkpoint
from convert_weights.state_dict import find_weights
from convert_weights.torch_pickle import Storage, TensorView

STORAGE = Storage("0", np.dtype(np.float32), 6)
MARKS = ("a.w",)


def weights(start: int) -> dict[str, TensorView]:
    """Two tensors that begin at a place of the storage; another start is another network's."""
    return {"a.w": TensorView(STORAGE, start, (2,), (1,)), "b.w": TensorView(STORAGE, start, (), ())}


def prefixed(prefix: str, views: dict[str, TensorView]) -> dict[str, TensorView]:
    return {prefix + name: view for name, view in views.items()}


RAW, AVERAGE = weights(0), weights(3)
NUMBER, BETAS = TensorView(STORAGE, 5, (), ()), TensorView(STORAGE, 0, (4,), (1,))
JOINED = {"model_ema.unetaw": AVERAGE["a.w"], "model_ema.unetbw": AVERAGE["b.w"], "model_ema.decay": NUMBER}
MOMENTS = {"state": {0: {"step": NUMBER, "exp_avg": BETAS, "exp_avg_sq": BETAS}}, "param_groups": [{"lr": 1}]}


@pytest.mark.parametrize(
    ("content", "wrapper"),
    [
        (RAW, ""),
        (OrderedDict(RAW), ""),
        *((prefixed(f"{name}.", RAW), name) for name in ("module", "_orig_mod", "model", "denoise_fn", "unet")),
        (prefixed("model.diffusion_model.", RAW) | {"betas": BETAS, "model.logvar": BETAS}, "model.diffusion_model"),
        (prefixed("module._orig_mod.", RAW), "module._orig_mod"),
        *(({name: RAW, "epoch": 3}, name) for name in ("state_dict", "model_state_dict", "network", "params", "net")),
        ({"module": RAW, "ds_version": "0.1", "optimizer": MOMENTS}, "module"),
        (
            {"state_dict": prefixed("model.", RAW), "callbacks": {"best": 1}, "optimizer_states": [MOMENTS]},
            "state_dict.model",
        ),
        ({"model": prefixed("module.", RAW), "step": NUMBER}, "model.module"),
        ({"weights": [{"name": "x"}, RAW]}, "weights.1"),
        ({"model": RAW, "ema": {"decay": NUMBER}}, "model"),
        ({"model": RAW, "again": RAW}, "model"),
    ],
)
def test_weights_under_any_prefix_in_any_wrapper(content, wrapper):
    found = find_weights(content, MARKS)
    assert (found.views, found.wrapper, found.averaged, found.others) == (RAW, wrapper, False, ())


@pytest.mark.parametrize(
    ("content", "wrapper", "other"),
    [
        ({"model": RAW, "model_ema": AVERAGE}, "model_ema", "model"),
        ({"ema": prefixed("module.", AVERAGE), "model": RAW}, "ema.module", "model"),
        ({"params": RAW, "params_ema": AVERAGE}, "params_ema", "params"),
        ({"state_dict": RAW, "state_dict_ema": AVERAGE}, "state_dict_ema", "state_dict"),
        ({"model": RAW, "EMA": {"shadow": AVERAGE}}, "EMA.shadow", "model"),
        ({"model": RAW, "modelEMA": AVERAGE}, "modelEMA", "model"),
        ({"model": RAW, "swa": {"n_averaged": NUMBER} | prefixed("module.", AVERAGE)}, "swa.module", "model"),
        (prefixed("model.", RAW) | prefixed("ema_model.", AVERAGE), "ema_model", "model"),
        (
            {"model": RAW, "ema": prefixed("ema_model.", AVERAGE) | prefixed("online_model.", RAW)},
            "ema.ema_model",
            "model",
        ),
        ({"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(AVERAGE.values())}}, "ema.shadow_params", "model"),
        (
            {"model": RAW, "ema": {"shadow_params": list(AVERAGE.values()), "collected_params": list(RAW.values())}},
            "ema.shadow_params",
            "model",
        ),
        ([RAW, MOMENTS, 3, 5000, AVERAGE], "ema", "model"),
        ({"state_dict": prefixed("model.unet.", RAW) | JOINED}, "state_dict.model_ema", "state_dict.model.unet"),
        ({"net": RAW, "optimizer_states": [{"ema": tuple(AVERAGE.values())}]}, "optimizer_states.0.ema", "net"),
        ({"exp": {"model": RAW, "model_ema": AVERAGE}}, "exp.model_ema", "exp.model"),
        ({"state_dict": RAW, "callbacks": {"EMACallback": AVERAGE}}, "callbacks.EMACallback", "state_dict"),
    ],
)
def test_averages_go_before_others_and_both_are_named(content, wrapper, other):
    found = find_weights(content, MARKS)
    assert (found.views, found.wrapper, found.averaged, found.others) == (AVERAGE, wrapper, True, (other,))
    asked = find_weights(content, MARKS, other)
    assert (asked.views, asked.averaged, asked.others) == (RAW, False, (wrapper,))


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg"])
def test_averages_of_gradients_are_no_averages_of_weights(name):
    assert find_weights({"net": RAW, "optimizer": {"state": {0: {name: BETAS}}}}, MARKS).wrapper == "net"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"x": RAW, "y": AVERAGE}, "holds several networks: x, y; say with --weights"),
        ({"ema_0.99": RAW, "ema_0.999": AVERAGE}, "holds several networks: ema_0.99, ema_0.999"),
        (RAW | prefixed("sr.", AVERAGE), r"holds several networks: \., sr"),
        ({"model": RAW, "ema": {"shadow_params": [BETAS]}}, "averaged weights under `ema.shadow_params.0`, in a form"),
        ({"model": RAW, "ema": {"_modules": {"a": {"_parameters": {"w": BETAS}}}}}, "averaged weights under `ema`, in"),
        ({"_modules": {"a": {"_parameters": {"w": BETAS}}}}, "holds a module as a whole"),
        (prefixed("model.", RAW) | {"first_stage_model.x": BETAS}, "holds a latent diffusion model"),
        ({"net": {"c": BETAS}}, "`a.w` is missing, under any prefix; it has `net.c`"),
        ({"xa.w": BETAS}, "`a.w` is missing"),
        ({"epoch": 3}, "holds no tensors; it is of type dict with 'epoch'"),
        (BETAS, "holds a tensor"),
    ],
)
def test_what_cannot_be_chosen_is_refused(content, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_weights(content, MARKS)


def test_a_place_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="no weights under emma, but under ema, model"):
        find_weights({"model": RAW, "ema": AVERAGE}, MARKS, "emma")


def test_a_place_of_several_marks():
    """A name alone may be another network's, such as `0.weight`."""
    content = {"mlp": {"0.w": BETAS}, "net": {"0.w": BETAS, "2.w": BETAS}}
    assert find_weights(content, ("0.w", "2.w")).wrapper == "net"


def test_containers_that_hold_themselves_end():
    loop: dict = {"model": RAW}
    loop["self"] = [loop, (loop,)]
    assert find_weights(loop, MARKS).wrapper == "model"


def test_what_trainers_of_torch_write(tmp_path):
    """Adam's moments, a scheduler, an average as an object, and torch's own wrappers."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    average = torch.optim.swa_utils.AveragedModel(network)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    raw = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    for content, wrapper in (
        (raw, "model"),
        (raw | {"average": average.state_dict()}, "average.module"),
        (torch.nn.DataParallel(network).state_dict(), "module"),
    ):
        torch.save(content, tmp_path / "x.pt")
        assert read_checkpoint(tmp_path / "x.pt", ("0.weight",)).wrapper == wrapper
    for content in (raw | {"ema": average}, network, {"net": network}):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"under `ema`, in a form that is not read|holds a module as a whole"):
            read_checkpoint(tmp_path / "x.pt", ("0.weight",))


def test_names_that_become_one_are_refused():
    with pytest.raises(ValueError, match="names are the same without what wrappers put into them"):
        find_weights(RAW | {"b._orig_mod.w": NUMBER}, MARKS)
