"""A result of an evaluation that nobody played, for what is told about results."""

import dataclasses

from jepawm.config import (
    RunConfig,
    to_dict,
)
from jepawm.evaluation.manifest import manifest
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.outcomes import (
    DiagnosedEpisode,
    DistancePoint,
    EpisodeOutcome,
    FailureDiagnosis,
    ProtocolReport,
    ProtocolResult,
)
from jepawm.evaluation.result import (
    DatasetFacts,
    EvaluationResult,
    HeldOut,
    ModelFacts,
    Played,
    PredictionRow,
    Provenance,
)

DATASET = DatasetFacts("a/dataset", "ef" * 32, 10, [9])


def synthetic_result() -> EvaluationResult:
    def outcome(episode_id: int, solved: bool) -> EpisodeOutcome:
        return EpisodeOutcome(episode_id, solved, env_steps=45, num_plans=2, start=[0.0], goal=[1.0], end=[1.0])

    def played(rate: float, interval: tuple[float, float]) -> ProtocolResult:
        episodes = (outcome(3, True), outcome(4, False))
        return ProtocolResult(SuccessRate(rate, interval, 50), episodes, 123.0, 456.0, 20.0, 3.0)

    config = RunConfig()
    diagnosed = DiagnosedEpisode(4, "model", 2, True, 0.1, 0.9, 0.3, 0.2)
    protocols = {
        name: ProtocolReport(
            getattr(config.evaluation, name),
            played(0.84, (0.714, 0.917)),
            played(0.06, (0.021, 0.162)),
            failures=FailureDiagnosis(8, 32, (diagnosed,)),
            conditions={"budget": "60 env_steps"},
        )
        for name in ("two_plan", "per_chunk")
    }
    point = DistancePoint(25, 1, "ef" * 32, protocols["two_plan"])
    curve = (point, dataclasses.replace(point, goal_offset_env_steps=50))
    rows = tuple(PredictionRow(k, 0.1 * k, 0.4 * k, shuffled_actions=0.9, variance=1.5) for k in (1, 2, 3))
    return EvaluationResult(
        seed=99,
        model=ModelFacts("model", "ab" * 32, 312_345),
        config=to_dict(config),
        provenance=Provenance(**manifest()),
        held_out=HeldOut(rows, 256, 12, {"diagnostics/effective_rank": 17.25, "diagnostics/probe_r2/<x>": 0.987}),
        played=Played(protocols, 7, "sampler", "px", "cd" * 32, curve, "episodes.json"),
        conditions={"history": "1 frame"},
        published={"name": "dino_wm_wall", "paper": "a paper", "differences": ["seed 3"], "remarks": ["a <remark>"]},
        recipe="demo <&> more",
        run_dir="runs/x",
        wall_s={"train": 81.2},
    )
