"""The common part of environments around the simulators of other packages, such as Metaworld and robosuite.

Such a simulator keeps a part of an episode outside of the state of MuJoCo. The classes here wrap it so that `set_state`
sets that part too: equal states then have equal futures, whatever happened before.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from envs.base import SimStateEnv
from envs.mujoco_rendering import MujocoPictures


class ForgettingSimulator(ABC):
    """A simulator in which equal states `[S]` give equal futures."""

    model: Any
    """The `mjModel`."""
    data: Any
    """The `mjData`."""

    @property
    @abstractmethod
    def state_names(self) -> tuple[str, ...]:
        """The numbers of a state, in order."""

    @property
    @abstractmethod
    def is_set(self) -> bool:
        """Whether the simulator has been put into a state yet."""

    @abstractmethod
    def start(self, random: np.random.Generator) -> np.ndarray:
        """Resets as the original simulator does; returns the state `[S]` in which the episode starts."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> None:
        """Puts the simulator into a state `[S]`."""

    @abstractmethod
    def advance(self, action: np.ndarray) -> None:
        """One env_step with an action `[a]`, which the original simulator clips."""

    @abstractmethod
    def _read_state(self) -> np.ndarray:
        """The present state `[S]`, a copy."""

    def get_state(self) -> np.ndarray:
        """Returns the state `[S]`, a copy.

        Raises:
            RuntimeError: The simulator has not been put into a state yet.
        """
        if not self.is_set:
            raise RuntimeError("the simulator was never put into a state")
        return self._read_state()

    @contextmanager
    def as_in(self, state: np.ndarray) -> Iterator[None]:
        """Puts the simulator into a state `[S]` inside the `with` block, and back afterwards."""
        if self.is_set and np.array_equal(self.get_state(), state):
            yield
            return
        with self.aside():
            self.set_state(state)
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Puts the simulator back into its state after the `with` block."""
        kept = self.get_state() if self.is_set else None
        try:
            yield
        finally:
            if kept is not None:
                self.set_state(kept)


class SimulatorEnv(SimStateEnv):
    """An environment around a `ForgettingSimulator`: its sim_state `[S]` is the state of the simulator; MuJoCo draws
    it.

    Subclasses call `_open` at the end of `__init__`. A copy or pickle makes its own simulator and renderer, in the same
    state.
    """

    _simulator: ForgettingSimulator
    _pictures: MujocoPictures

    @abstractmethod
    def _new_simulator(self) -> ForgettingSimulator:
        """Makes the simulator."""

    @abstractmethod
    def _new_pictures(self) -> MujocoPictures:
        """Makes the renderer of the model of `self._simulator`."""

    def _open(self) -> None:
        self._simulator = self._new_simulator()
        # Tasks have different objects, so each instance has names of its own.
        self.sim_state_names = self._simulator.state_names  # type: ignore[misc]
        self._pictures = self._new_pictures()

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of any sim_state `[S]`."""
        self._resolved(variation)
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._draw()

    def close(self) -> None:
        """Frees the renderer."""
        self._pictures.close()

    def _sample_start(self) -> np.ndarray:
        return self._simulator.start(self.np_random)

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._simulator.set_state(sim_state)

    def _get_state(self) -> np.ndarray:
        return self._simulator.get_state()

    def _advance(self, action: np.ndarray) -> None:
        self._simulator.advance(action)

    def _draw(self) -> np.ndarray:
        return self._pictures.draw(self._simulator.data)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in self.__dict__.items() if name not in ("_simulator", "_pictures")}
        return own | {"sim_state": self._get_state() if self._was_reset else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        sim_state = state.pop("sim_state")
        self.__dict__.update(state)
        self._open()
        if sim_state is not None:
            self._set_state(sim_state)
