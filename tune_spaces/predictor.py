"""Search space of the predictor."""

from jepawm.tuning import Choice, IntRange, Space

PATCHES = ("vit", "dinov2", "dinov3", "vjepa1", "vjepa2")
TRANSFORMERS = ("adaln", "feature", "vjepa2_ac")


def predictor_space() -> Space:
    """Family, depth, width, heads, context and rollout steps.

    Behind an encoder of patches the three transformer families are tried; they differ in how the action enters
    (modulated normalisations, features of each patch). Behind other encoders the run's own family is kept. Rollout
    steps are tried where the run's loss is `rollout`.

    Sources: JEPA-WMs (Terver et al. 2025, arXiv 2512.24497) compares the predictors of AdaLN, DINO-WM and V-JEPA 2-AC,
    depths of 3 to 12, contexts of 1 to 7 frames, and 1 to 6 rollout steps; AdaLN with rotary positions, 3 frames and 2
    steps were best in simulators. DINO-WM (Zhou et al. 2024, arXiv 2411.04983) has depth 6, 16 heads of 64, and 3
    frames. Widths of the `mlp` and `recurrent` families are ours, around those of the recipe demo.
    """
    transformer = {"model.predictor.name": TRANSFORMERS}
    small = {"model.predictor.name": ("mlp", "recurrent")}
    return Space(
        "predictor",
        {
            "model.predictor.name": Choice(*TRANSFORMERS, when={"model.encoder.name": PATCHES}),
            "model.predictor.context_window": IntRange(1, 3),
            "model.predictor.depth": Choice(3, 6, 9, 12, when=transformer),
            "model.predictor.num_heads": Choice(4, 8, 16, when=transformer),
            "model.predictor.head_dim": Choice(32, 64, when=transformer),
            "model.predictor.dropout": Choice(0.0, 0.1, when=transformer),
            # The only one of its two that goes with proprio as a feature, which these recipes have.
            "model.predictor.action_as": Choice("feature", when={"model.predictor.name": "vjepa2_ac"}),
            # A learned table holds a number of frames, which would have to follow the context.
            "model.predictor.position": Choice("rotary", when={"model.predictor.name": "adaln"}),
            "model.predictor.num_positions": Choice(8, when={"model.predictor.name": "feature"}),
            "model.predictor.hidden_dim": Choice(128, 256, 512, when=small),
            "model.predictor.num_layers": IntRange(1, 3, when=small),
            "loss.rollout_steps": IntRange(1, 3, when={"loss.name": "rollout"}),
            "loss.rollout_window": IntRange(1, 3, when={"loss.name": "rollout"}),
        },
    )
