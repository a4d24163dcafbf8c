"""Search space of the planner. A trial plans with a trained world model (`--model RUN`), so none trains."""

from jepawm.tuning import Choice, LogUniform, Space, Uniform


def planner_space() -> Space:
    """Which search, how many candidates and iterations, and how wide it begins.

    Sources: JEPA-WMs (Terver et al. 2025, arXiv 2512.24497), planner table: CEM with 300 candidates, 10 elites and 15
    or 30 iterations, against Adam on the actions, which is better on Metaworld and worse elsewhere. DINO-WM (Zhou et
    al. 2024, arXiv 2411.04983): 300 candidates, 30 elites, 10 or 30 iterations. PLDM (Sobal et al. 2025, arXiv
    2502.14819): MPPI with 200 candidates, 20 elites and 20 iterations. Coloured noise as iCEM has it (Pinneri et al.
    2020, arXiv 2008.06389). Ranges around these are ours.
    """
    sampling = {"planner.name": ("cem", "icem", "mppi")}
    return Space(
        "planner",
        {
            "planner.name": Choice("cem", "icem", "mppi", "gradient"),
            "planner.init_std": Uniform(0.5, 2.0),
            "planner.num_samples": Choice(100, 200, 300, 600, when=sampling),
            "planner.num_elites": Choice(10, 20, 30, when=sampling),
            "planner.num_iterations": Choice(5, 10, 20, 30, when=sampling),
            "planner.mean_momentum": Uniform(0.0, 0.5, when={"planner.name": "cem"}),
            "planner.noise_exponent": Uniform(0.0, 3.0, when={"planner.name": "icem"}),
            "planner.temperature": LogUniform(0.05, 5.0, when={"planner.name": "mppi"}),
            "planner.learning_rate": LogUniform(0.01, 1.0, when={"planner.name": "gradient"}),
            "planner.update_noise": Choice(0.0, 0.003, 0.03, when={"planner.name": "gradient"}),
        },
    )
