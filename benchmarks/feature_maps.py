"""Pictures of what a DINOv2 backbone sees in Push-T: the first three principal components of its patch tokens.

    python benchmarks/feature_maps.py --weights dinov2_vits14_saliency.safetensors
        [--demonstrations pusht_cchi_v7_replay.zarr.zip] [--output docs/images]

Components are fitted to the tokens of all frames of a picture together and shown as red, green and blue, each
stretched from its 1st to its 99th percentile. Below stands the same network with random weights, treated alike. The
shares of variance that the three components hold are printed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from envs.policies import make_policy
from envs.pusht import PushTEnv
from jepawm.config import EncoderConfig
from jepawm.data import EpisodeDataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.encoders import Encoder, build_encoder

IMAGE_SIZE_PX = 224
NUM_FRAMES = 6
ENV_STEPS_BETWEEN = 12
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="a DINOv2 ViT-S/14 file, official or timm's")
    parser.add_argument("--demonstrations", help="the Push-T human demonstrations; without them one picture is made")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "images")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    networks = {
        "fine-tuned\nDINOv2 ViT-S/14": encoder(arguments.weights),
        "random\nweights": encoder(None),
    }
    pictures = {"feature_maps_pusht": policy_frames()}
    if arguments.demonstrations:
        pictures["feature_maps_pusht_human"] = human_frames(arguments.demonstrations)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, pixels_TCYX in pictures.items():
        draw(arguments.output / f"{name}.png", pixels_TCYX, networks)


def encoder(weights: str | None) -> Encoder:
    config = EncoderConfig(name="dinov2", size="small", weights=weights, normalization="imagenet", trainable=False)
    return build_encoder(config, IMAGE_SIZE_PX)


def policy_frames() -> np.ndarray:
    """Frames `[T,C,Y,X]` of one episode in which a disc pushes the block about."""
    env, policy = PushTEnv(image_size=IMAGE_SIZE_PX), make_policy("pusht_noisy_push")
    observation, info = env.reset(seed=SEED)
    policy.reset(SEED)
    frames = [observation["pixels"]]
    for env_step in range(1, (NUM_FRAMES - 1) * ENV_STEPS_BETWEEN + 1):
        observation, _, _, _, info = env.step(policy.act(info["sim_state"]))
        if env_step % ENV_STEPS_BETWEEN == 0:
            frames.append(observation["pixels"])
    return np.stack(frames).transpose(0, 3, 1, 2)


def human_frames(source: str) -> np.ndarray:
    """Frames `[T,C,Y,X]` spread over the first human demonstration, enlarged from 96 px."""
    with tempfile.TemporaryDirectory() as folder:
        demonstrations = open_source(source, "pusht-zarr", ImportOptions(image_size=IMAGE_SIZE_PX))
        import_episodes(demonstrations, f"{folder}/demonstrations", max_episodes=1)
        pixels_TYXC = EpisodeDataset(f"{folder}/demonstrations").read_episode(0).pixels
    shown = np.linspace(0, len(pixels_TYXC) - 1, NUM_FRAMES).round().astype(int)
    return pixels_TYXC[shown].transpose(0, 3, 1, 2)


def components(tokens_TPD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The first three principal components `[T,P,3]` of all tokens together, 0 to 1, and their shares of variance."""
    flat = tokens_TPD.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    _, scales, directions = torch.linalg.svd(flat, full_matrices=False)
    # A direction's sign is arbitrary: the larger tail points up.
    scores = flat @ directions[:3].T
    scores = scores * (scores**3).sum(dim=0).sign()
    low, high = torch.quantile(scores, 0.01, dim=0), torch.quantile(scores, 0.99, dim=0)
    colours = ((scores - low) / (high - low)).clamp(0, 1)
    share = scales.square() / scales.square().sum()
    return colours.view(*tokens_TPD.shape[:2], 3).numpy(), share[:3].numpy()


def draw(path: Path, pixels_TCYX: np.ndarray, networks: dict[str, Encoder]) -> None:
    T = len(pixels_TCYX)
    rows = {"frame": pixels_TCYX.transpose(0, 2, 3, 1)}
    for name, network in networks.items():
        colours, share = components(network(torch.from_numpy(pixels_TCYX.copy())[None])[0])
        rows[name] = colours.reshape(T, *network.grid, 3)
        shares = ", ".join(f"{value:.0%}" for value in share)
        print(f"{path.stem}, {' '.join(name.split())}: shares of variance {shares}, together {share.sum():.0%}")
    figure, axes = plt.subplots(len(rows), T, figsize=(1.35 * T + 0.9, 1.4 * len(rows)))
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        axes[row, 0].set_ylabel(name, fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
