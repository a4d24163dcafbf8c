"""ResNet-18 as DINO-WM compares against: trained on ImageNet, or by R3M on human videos."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from jepawm.config.encoder import R3MEncoderConfig, ResNet18EncoderConfig
from jepawm.encoders.base import FrameEncoder
from jepawm.errors import CheckpointError, ConfigError, require
from jepawm.nn.weights import load_strict, locate, only_tensors, read_tensors
from jepawm.nn.wrapped import network_tensors

_LATENT_DIM = 512
_HUB_FILE = "hf://timm/resnet18.tv_in1k/model.safetensors"
_HINTS = {
    "resnet18": f"torchvision's IMAGENET1K_V1 file of resnet18, or {_HUB_FILE}",
    "r3m": "the ResNet-18 model.pt of the R3M repository (facebookresearch/r3m)",
}
_CLASSIFIER = {"fc.weight", "fc.bias"}
_R3M_CONVNET = "module.convnet."
_R3M_LANGUAGE = ("module.lang_enc.", "module.lang_rew.")


class ResNetEncoder(FrameEncoder):
    """ResNet-18 without its classifier: the mean over space of the last features, one token of 512 a frame.

    Args:
        config: `resnet18` or `r3m`, and where the weights are.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: Weights that this encoder does not exist with.
        CheckpointError: A weight file that is missing, damaged, or of another model.

    Reference: He et al. 2016, arXiv 1512.03385; Nair et al. 2022, R3M, arXiv 2203.12601.
    """

    def __init__(self, config: ResNet18EncoderConfig | R3MEncoderConfig, image_size: int) -> None:
        super().__init__(config, image_size, grid=(1, 1), latent_dim=_LATENT_DIM)
        timm = require("timm", "vision")
        self.backbone = timm.create_model("resnet18", pretrained=False, num_classes=0)
        if config.weights is not None:
            self._load(config.name, config.weights)

    def _load(self, name: str, source: str) -> None:
        if source == "timm" and name == "r3m":
            raise ConfigError(f"model.encoder.weights 'timm': timm does not have R3M; give a file: {_HINTS['r3m']}")
        path = locate(_HUB_FILE if source == "timm" else source, hint=f"get {_HINTS[name]}")
        found = read_tensors(path)
        tensors = _convnet_of_r3m(found, path) if name == "r3m" else network_tensors(found, path)
        if not any(key.endswith(".num_batches_tracked") for key in tensors):
            # Files from before this counter existed; with a fixed momentum nothing reads it.
            expected = self.backbone.state_dict()
            tensors |= {key: value for key, value in expected.items() if key.endswith(".num_batches_tracked")}
        load_strict(self.backbone, tensors, path, ignored=_CLASSIFIER, cause=f"expected {_HINTS[name]}")

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 D"]:
        return self.backbone(images_NCYX).unsqueeze(1)


def _convnet_of_r3m(found: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The image network of an R3M checkpoint, by torchvision's names; the language heads stay behind."""
    if "r3m" not in found:
        raise CheckpointError(f"{where} is not an R3M checkpoint: it has no 'r3m'; get {_HINTS['r3m']}")
    tensors = only_tensors(found["r3m"], f"{where}['r3m']")
    names = {key: key.removeprefix(_R3M_CONVNET) for key in tensors if key.startswith(_R3M_CONVNET)}
    return {names.get(key, key): value for key, value in tensors.items() if not key.startswith(_R3M_LANGUAGE)}
