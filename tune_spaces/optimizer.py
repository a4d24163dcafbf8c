"""Search space of the optimizer and of the loss weights."""

from jepawm.tuning import Above, LogUniform, Space


def optimizer_space() -> Space:
    """Learning rate, weight decay, and the weights of those terms against collapse that the run's loss has
    and an encoder that trains needs.

    All of them may change while weights stay, so population-based training takes this space.

    Sources: learning rates around those of V-JEPA 2-AC (4.25e-4), DINO-WM and JEPA-WMs (5e-4) and PLDM (1e-3). Weights
    around PLDM's published ones for Two Rooms (Sobal et al. 2025, arXiv 2502.14819): its success falls from 97 % to
    47 % without variance, 46 % without covariance, 61 % without time similarity and 1 % without inverse dynamics.
    SIGReg's around LeWM's 0.09.
    """
    trains = {"model.encoder.trainable": True}
    return Space(
        "optimizer",
        {
            "optim.learning_rate": LogUniform(1e-4, 3e-3),
            "optim.weight_decay": LogUniform(1e-6, 1e-2),
            "loss.inverse_dynamics": LogUniform(0.25, 4.0, when={"loss.inverse_dynamics": Above(0), **trains}),
            "loss.variance": LogUniform(4.0, 64.0, when={"loss.variance": Above(0), **trains}),
            "loss.covariance": LogUniform(2.0, 32.0, when={"loss.covariance": Above(0), **trains}),
            "loss.time_similarity": LogUniform(1.0, 24.0, when={"loss.time_similarity": Above(0), **trains}),
            "loss.sigreg": LogUniform(0.01, 0.5, when={"loss.sigreg": Above(0), **trains}),
        },
    )
