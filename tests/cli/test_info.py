"""`jaxdiff info PRIOR`: what is stored about a prior, in words."""

import json
import shutil

import pytest

from convert_weights.__main__ import main as convert
from jaxdiff.cli.info import prior_facts
from jaxdiff.cli.main import main
from jaxdiff.priors.storage import SHIPPED
from tests.convert_weights.test_convert_weights import BLOCKS
from tests.convert_weights.test_safetensors_file import save
from tests.golden.make_unet_parity import draw_weights

PHOTOS = "286f04f7e3a20254c067ba95efb5d3339f4fc8a09a365a93cd469184d4cdb279"


def told(capsys, prior: str) -> dict[str, str]:
    main(["info", prior])
    return {line[:11].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}


def test_what_the_shipped_priors_are_is_told(capsys) -> None:
    photos, faces = told(capsys, "photos"), told(capsys, "faces-32")
    assert photos == photos | {
        "format": "ffdnet",
        "file": f"ffdnet_color.pth, weights `model`, SHA-256 {PHOTOS}",
        "trained on": "photographs with white Gaussian noise",
        "licence": "MIT",
        "network": "ffdnet: channels 96, depth 12, max_sigma 0.2941",
        "parameters": "852,108 in float32",
        "images": "any size, 3 channels",
        "predicts": "x0, variance fixed_small, clipped to [-1, 1]",
        "schedule": "linear, 1000 times",
        "card": str(SHIPPED / "photos" / "README.md"),
    }
    assert faces == faces | {"format": "trained with this package", "trained on": "drawn faces", "licence": "MIT"}
    assert faces["images"] == "32x32 pixels, 3 channels"
    assert "steps 4250" in faces["training"]
    assert "file" not in faces


def test_old_priors_are_read_and_what_they_lack_is_said(tmp_path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(SHIPPED / "photos", folder, ignore=shutil.ignore_patterns("README.md", "weights"))
    found = json.loads((folder / "config.json").read_text())
    del found["parameters"], found["dtypes"]
    found["source"] = {}
    (folder / "config.json").write_text(json.dumps(found))
    facts = prior_facts(folder)
    titles = [title for title, text in facts.items() if text == "not stored"]
    assert titles == ["format", "file", "trained on", "licence", "parameters"]
    assert "card" not in facts


def test_a_converted_prior_keeps_its_origin_and_the_licence_of_the_card_beside_it(tmp_path, capsys) -> None:
    save(tmp_path / "x.safetensors", draw_weights(BLOCKS))
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: apache-2.0\n---\n# A model\n")
    size = ["--image-size", str(BLOCKS.image_size), "--norm-groups", str(BLOCKS.norm_groups), "--num-heads", "2"]
    assert convert(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "prior"), *size]) == 0
    capsys.readouterr()
    facts = told(capsys, str(tmp_path / "prior"))
    assert facts["format"] == "guided-diffusion"
    assert facts["licence"] == "apache-2.0"
    assert facts["file"].startswith("x.safetensors, SHA-256 ")
    assert facts["images"] == f"{BLOCKS.image_size}x{BLOCKS.image_size} pixels, 3 channels"


def test_a_prior_that_is_missing_is_one_sentence(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["info", "nowhere"])
    assert ended.value.code == 2
    assert "nowhere is not a prior" in capsys.readouterr().err
