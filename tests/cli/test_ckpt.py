"""`jepawm ckpt show | convert`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published_files import dino_wm_original, published_model, published_parts, save_dino_wm

import jepawm
from jepawm.cli.main import main
from jepawm.hub import load_published
from jepawm.nn import weights

FILES = ["config.yaml", "format_version", "model.safetensors", "stats.json"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in ("jepa_wm_wall", "dino_wm_pusht"):
        torch.save(published_parts(published_model(name)), folder / f"{name}.pth.tar")
    return folder


def test_show_says_what_a_published_file_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ckpt", "show", str(files / "jepa_wm_wall.pth.tar")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("jepa_wm_wall.pth.tar: tensors")
    assert lines[1:3] == ["epoch 50", "has the shapes of jepa_wm_wall"]
    assert lines[3].split() == ["predictor", "92", "tensors,", "17,626,480", "numbers,", "67.2", "MiB"]
    assert lines[4].split() == ["proprio_encoder", "2", "tensors,", "48", "numbers,", "0.0", "MiB"]


def test_show_lists_the_tensors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ckpt", "show", str(files / "jepa_wm_wall.pth.tar"), "--keys"]) == 0
    assert "    module.predictor_blocks.5.adaLN_modulation.1.weight [2400, 400] float32" in capsys.readouterr().out


def test_show_reads_optimizers_and_bare_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"opt": optimizer.state_dict(), "extra": torch.ones(5)}, tmp_path / "file.pt")
    assert main(["ckpt", "show", str(tmp_path / "file.pt"), "--keys"]) == 0
    out = capsys.readouterr().out
    assert "opt.state" not in out
    assert "    state.0.exp_avg [2, 3] float32" in out
    assert "    extra [5] float32" in out


def test_convert_writes_a_folder_that_loads_and_shows(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = str(files / "jepa_wm_wall.pth.tar"), tmp_path / "wall"
    monkeypatch.chdir(tmp_path)
    Path("dinov2.pth").write_bytes(b"")
    assert main(["ckpt", "convert", source, str(folder), "--encoder-weights", "dinov2.pth"]) == 0
    assert "jepa_wm_wall, 17,626,528 parameters beside its encoder's" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == FILES
    ours = jepawm.load(folder, device="cpu")
    assert ours.spec.model.encoder.weights_source == str(tmp_path / "dinov2.pth")
    theirs = load_published("jepa_wm_wall", source)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value)
    assert main(["ckpt", "show", str(folder)]) == 0
    out = capsys.readouterr().out
    for text in ("a jepawm model, format 1", "dinov2 small, frozen", "adaln, context window 2; proprio: feature"):
        assert text in out
    assert "mean [-0.005565, 0.0132], deviation [0.7523, 0.7467]" in out


def test_convert_reads_a_file_once(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = weights.read_tensors
    monkeypatch.setattr(weights, "read_tensors", lambda path: asked.append(path) or read(path))
    source = str(files / "jepa_wm_wall.pth.tar")
    assert main(["ckpt", "convert", source, str(tmp_path / "wall"), "--encoder-weights", "none"]) == 0
    assert asked == [source]


def test_a_model_must_be_named_where_shapes_do_not_tell(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = str(files / "dino_wm_pusht.pth.tar"), tmp_path / "pusht"
    assert main(["ckpt", "convert", source, str(folder)]) == 2
    assert "has the shapes of dino_wm_pusht and dino_wm_pointmaze; say which it is" in capsys.readouterr().err
    assert not folder.exists()
    assert main(["ckpt", "convert", source, str(folder), "--name", "dino_wm_pusht"]) == 0
    assert main(["ckpt", "convert", source, str(folder), "--name", "dino_wm_pusht"]) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err


def test_the_original_dino_wm_is_shown_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_dino_wm(tmp_path / "model_latest.pth", dino_wm_original("wall", 1))
    assert main(["ckpt", "show", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("pickled modules of DINO-WM, only tensors taken")
    assert lines[1:3] == ["epoch 100", "has the shapes of no published model"]
    assert main(["ckpt", "convert", path, str(tmp_path / "out")]) == 2
    assert "say of which environment with --name" in capsys.readouterr().err
    assert main(["ckpt", "convert", path, str(tmp_path / "out"), "--name", "dino_wm_wall"]) == 0
    agent = jepawm.load(tmp_path / "out", device="cpu")
    assert agent.model.num_patches == 196
    assert agent.spec.run["env"]["id"] == "envs:envs/Wall-v1"


def test_encoder_weights_that_are_not_there_and_folders_are_refused(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(files / "jepa_wm_wall.pth.tar")
    assert main(["ckpt", "convert", source, str(tmp_path / "out"), "--encoder-weights", "/nope.pth"]) == 1
    assert "weight file not found: /nope.pth" in capsys.readouterr().err
    assert main(["ckpt", "convert", str(files), str(tmp_path / "out")]) == 2
    assert "is a folder; give a published file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_module_is_the_command() -> None:
    for module in ("jepawm", "jepawm.cli.main"):
        done = subprocess.run([sys.executable, "-m", module, "recipes"], capture_output=True, text=True, check=True)
        assert "lewm_small" in done.stdout


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04nothing"])
def test_files_that_are_no_checkpoints_end_in_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    assert main(["ckpt", "show", str(tmp_path / "file.pt")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
