"""Weight files of the V-JEPA encoders: the releases' own layouts, transformers' layout, and exported folders."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from jepawm.config.exported import exported_folder
from jepawm.encoders.exported import load_exported
from jepawm.errors import CheckpointError, ConfigError, did_you_mean
from jepawm.nn import weights

if TYPE_CHECKING:
    from jepawm.encoders.vjepa import VJEPAEncoder
    from jepawm.encoders.vjepa2_1 import VJEPA21Encoder

Part = Literal["target_encoder", "encoder"]
WHERE = {
    "vjepa1": "take vitl16.pth.tar from the V-JEPA release (dl.fbaipublicfiles.com/jepa/vitl16)",
    "vjepa2": "take vitl.pt, vith.pt, vitg.pt or vitg-384.pt from the V-JEPA 2 release (dl.fbaipublicfiles.com/vjepa2) "
    "or model.safetensors of hf://facebook/vjepa2-vitl-fpc64-256",
}

# The files of V-JEPA 2.1 by the names of the official hub, with the size that each holds; all for frames of 384 px.
VJEPA21_URL = "https://dl.fbaipublicfiles.com/vjepa2"
VJEPA21_FILES = {
    "vjepa2_1_vit_base_384": ("base", "vjepa2_1_vitb_dist_vitG_384.pt"),
    "vjepa2_1_vit_large_384": ("large", "vjepa2_1_vitl_dist_vitG_384.pt"),
    "vjepa2_1_vit_giant_384": ("giant", "vjepa2_1_vitg_384.pt"),
    "vjepa2_1_vit_gigantic_384": ("gigantic", "vjepa2_1_vitG_384.pt"),
}


def load_vjepa(encoder: "VJEPAEncoder", source: str, *, part: Part = "target_encoder") -> None:
    """Loads published weights, strictly.

    A released file holds two encoders: `target_encoder`, the moving average, which the official hub loads and V-JEPA's
    evaluations use, and `encoder`, the trained one. JEPA-WMs built their V-JEPA 2 models on `encoder`, and the V-JEPA
    2-AC file holds nothing else. The choice is the caller's, never made by what a file happens to hold; the golden
    vectors do not tell them apart.

    The layout of transformers' `VJEPA2Model` (one encoder, so `part` has no meaning) is read too; it was tested on
    files of that layout made by the tests, not on the published ones.

    Args:
        encoder: Changed in place.
        source: A path, a URL, `hf://OWNER/REPO/FILE[@REVISION]`, or a folder that `export_encoder` wrote.
        part: The encoder to load from a file of the release.

    Raises:
        CheckpointError: The file is missing or damaged, has no such part, or does not fit the encoder.
    """
    folder = exported_folder(source)
    if folder is not None:
        load_exported(encoder, folder)
        return
    where = WHERE[encoder.config.name]
    path = weights.locate(source, hint=where)
    found = weights.read_tensors(path)
    if any(name.startswith("encoder.embeddings.") for name in found):
        tensors, place = vjepa_from_transformers(weights.only_tensors(found, path)), path
    else:
        tensors, place = encoder_part(found, (part,), path, where)
    tensors = {published_name(key): value for key, value in tensors.items()}
    if encoder.uses_table and "pos_embed" in tensors:
        _check_table(encoder, tensors["pos_embed"], place)
    cause = "is model.encoder.size the file's?"
    weights.load_strict(encoder, tensors, place, ignored={"pos_embed"}, cause=cause)


def load_vjepa21(encoder: "VJEPA21Encoder", source: str, *, part: Part = "target_encoder") -> None:
    """Loads published weights of V-JEPA 2.1, strictly.

    The moving average (`target_encoder`) is called `ema_encoder` in the files of the base and the large encoder, which
    were distilled from the gigantic one.

    Args:
        encoder: Changed in place.
        source: A name of `VJEPA21_FILES`, a path, a URL, `hf://OWNER/REPO/FILE[@REVISION]`, or a folder that
            `export_encoder` wrote.
        part: The encoder to load.

    Raises:
        CheckpointError: The file is missing or damaged, has no such part, or does not fit the encoder.
        ConfigError: A name of another size than the encoder's.
    """
    folder = exported_folder(source)
    if folder is not None:
        load_exported(encoder, folder)
        return
    files = ", ".join(file for _, file in VJEPA21_FILES.values())
    where = f"take {files} from the V-JEPA 2 release ({VJEPA21_URL.removeprefix('https://')})"
    if source in VJEPA21_FILES:
        size, file = VJEPA21_FILES[source]
        own = encoder.config.size or encoder.config.sizes[0]
        if size != own:
            raise ConfigError(f"model.encoder.weights '{source}' is of model.encoder.size {size}, found size {own}")
        source = f"{VJEPA21_URL}/{file}"
    elif source.startswith("vjepa2_1_") and not os.path.exists(source):
        raise ConfigError(f"model.encoder.weights: unknown '{source}'{did_you_mean(source, VJEPA21_FILES)}")
    path = weights.locate(source, hint=where)
    names = ("target_encoder", "ema_encoder") if part == "target_encoder" else (part,)
    tensors, place = encoder_part(weights.read_tensors(path), names, path, where)
    cause = "is model.encoder.size the file's?"
    weights.load_strict(encoder, tensors, place, rename=published_name, cause=cause)


def encoder_part(
    found: Mapping[str, Any], names: tuple[str, ...], path: str, where: str
) -> tuple[dict[str, Tensor], str]:
    """The network of a released file that has one of several names, and its place for errors.

    Args:
        found: What the file holds.
        names: Names of the network; the file must have exactly one of them.
        path: Of the file.
        where: Where to get a right file; ends the error's sentence.

    Raises:
        CheckpointError: None of the names, or several.
    """
    present = [name for name in names if name in found]
    if not present:
        raise CheckpointError(
            f"{path} has no '{names[0]}'{did_you_mean(names[0], [str(key) for key in found])}; {where}, or name "
            "another part (model.encoder.weights_part)"
        )
    if len(present) > 1:
        raise CheckpointError(f"{path} has both {' and '.join(present)}, so which of them is meant is not clear")
    place = f"{path} ({present[0]})"
    return weights.only_tensors(found[present[0]], place), place


def _check_table(encoder: "VJEPAEncoder", found: Tensor, where: str) -> None:
    """A table is never loaded: it is a constant, and it must be the one that is computed here."""
    expected = encoder.position_table.flatten(0, 2)[None]
    if found.shape != expected.shape or not torch.allclose(found.float(), expected.to(found.device), atol=1e-4):
        raise CheckpointError(
            f"{where}: pos_embed {list(found.shape)} is not the sine and cosine table {list(expected.shape)} that this "
            "encoder computes; is model.encoder.position_grid the file's?"
        )


_OWN_NAMES = {
    "patch_embed.proj.": "patch_embed.",
    "patch_embed_img.proj.": "patch_embed_image.",
    "norms_block.": "norms.",
    "img_mod_embed": "image_vector",
    "video_mod_embed": "video_vector",
}


def published_name(key: str) -> str:
    """Name in a file of the release to the name in an encoder of ours."""
    name = key.removeprefix("module.").removeprefix("backbone.")
    for theirs, own in _OWN_NAMES.items():
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return name


def vjepa_from_transformers(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of transformers' `VJEPA2Model` by the names of `VJEPAEncoder`.

    Queries, keys and values become one matrix; the file's predictor (`predictor.*`) is left out. Names that are not
    known stay, for the strict loader to refuse.

    Args:
        found: Tensors by transformers' names.

    Raises:
        CheckpointError: A layer without query, key or value.
    """
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        if key.startswith("predictor."):
            continue
        name = key.removeprefix("encoder.").replace("embeddings.patch_embeddings.proj.", "patch_embed.")
        name = re.sub(r"^layer\.(\d+)\.", r"blocks.\1.", name).replace(".attention.", ".attn.")
        name = name.replace("layernorm.", "norm.")
        match = re.fullmatch(r"(.*\.attn\.)(query|key|value)\.(weight|bias)", name)
        if match:
            parts.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = value
        else:
            tensors[name] = value
    for name, three in parts.items():
        missing = [part for part in ("query", "key", "value") if part not in three]
        if missing:
            raise CheckpointError(f"{name}: the file has no {' and no '.join(missing)} for it")
        tensors[name] = torch.cat([three["query"], three["key"], three["value"]])
    return tensors
