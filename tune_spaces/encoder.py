"""Search space of the visual encoder."""

from jepawm.tuning import Choice, Space

BACKBONES = ("dinov2", "dinov3")


def encoder_space() -> Space:
    """Which encoder, which tokens of which layer, which size and resolution.

    A run with a frozen DINO backbone (`data.features encode` or stored) tries both generations, their sizes, patches
    against the class token, three layers, and two resolutions. A run with an encoder of its own tries that encoder's
    widths. Whether an encoder trains is a matter of the loss as well (a frozen one needs no term against collapse), so
    that is left to a space of one's own.

    Sources: DINO-WM (Zhou et al. 2024, arXiv 2411.04983), Table 2: with patches 90 % of Push-T's episodes, with the
    class token 44 %, at 196 px. JEPA-WMs (Terver et al. 2025, arXiv 2512.24497): DINOv2 and DINOv3, S to L, at 224 and
    256 px; larger ones help on real robots only. Widths of `conv` and `vit` are ours, around the recipes demo and
    lewm_small, and so are the layers: halfway and at three quarters of the smaller sizes, and the last.
    """
    frozen = {"model.encoder.name": BACKBONES, "model.encoder.trainable": False}
    return Space(
        "encoder",
        {
            "model.encoder.name": Choice(*BACKBONES, when=frozen),
            "model.encoder.weights": Choice("timm", when={"model.encoder.name": BACKBONES}),
            "model.encoder.size": Choice("small", "base", "large", when={"model.encoder.name": BACKBONES}),
            "model.encoder.feature": Choice("patch", "class", when={"model.encoder.name": (*BACKBONES, "vit")}),
            "model.encoder.layer": Choice(6, 9, None, when={"model.encoder.name": BACKBONES}),
            # Multiples of both patch sizes, 14 and 16.
            "model.encoder.resize_to": Choice(112, 224, when={"model.encoder.name": BACKBONES}),
            "model.encoder.latent_dim": Choice(32, 64, 128, when={"model.encoder.name": ("conv", "vit")}),
            "model.encoder.depth": Choice(3, 6, 9, when={"model.encoder.name": "vit"}),
            "model.encoder.patch_size": Choice(8, 16, when={"model.encoder.name": "vit"}),
            "model.encoder.hidden_dim": Choice(128, 256, 512, when={"model.encoder.name": "conv"}),
        },
    )
