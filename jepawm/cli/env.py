"""`jepawm env`: is an environment fit for collecting and planning? And a Python with other packages for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from jepawm.cli.env_python import MakePython
from jepawm.cli.group import run_group

NATIVE = (
    "runs natively: it can be put into any sim_state, so goals can be any states of it (evaluation.goal_source sampler "
    "or held_out), and success is what it says"
)
SET = (
    "runs through the adapter, which sets its qpos and qvel: goals can be any states of it (evaluation.goal_source "
    "sampler or held_out), and are reached when the observation is near the goal's (--env.options success_distance=...)"
)
LED = (
    "runs through the adapter, which cannot set it to a state, only lead it to one: goals are states on its random "
    "walks (evaluation.goal_source sampler; held_out where episodes were collected with --data.policy random_walk), "
    "and are reached when the observation is near the goal's (--env.options success_distance=...)"
)


@dataclass(frozen=True)
class CheckEnv:
    """Check an environment of your own, or any of Gymnasium's. Exit code 1 if anything would go wrong."""

    env: Positional[str]
    """A Gymnasium id, `module:id`, or `module:Class` (a class, or a function that makes one)."""
    image_size: int = 64
    """Side of the square pictures, px."""
    options: tuple[str, ...] = ()
    """Arguments of the environment or the adapter as KEY=VALUE, the value in YAML."""

    def run(self) -> int:
        """Prints one line for each finding, then what it means."""
        from jepawm.config import EnvConfig
        from jepawm.env_check import check_env

        findings, trial = check_env(EnvConfig(id=self.env, image_size=self.image_size, options=self.options))
        for finding in findings:
            print(finding)
        failures = sum(finding.level == "FAIL" for finding in findings)
        if trial is not None:
            print((SET if trial.bare.can_be_set else LED) if trial.is_adapted else NATIVE)
            trial.close()
        if failures:
            print(f"{self.env}: {failures} check(s) failed; the contract is in docs/extend/environment.md")
            return 1
        print(f"{self.env}: ok; collect with: jepawm collect --env {self.env} --episodes 100 --output DATASET")
        return 0


def main(argv: Sequence[str]) -> int:
    """Runs one command."""
    return run_group(
        argv, prog="jepawm env", about="Environments of your own.", commands={"check": CheckEnv, "python": MakePython}
    )
