"""Who may import whom (the Doors table), read from the source: imports inside functions count as well."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TABLE = REPO / "docs" / "architecture.md"
COMMON = {"jepawm.errors", "jepawm.types", "jepawm.config"}
HEAVY = {"ray", "gymnasium", "mlflow", "envs"}


def read_doors(text: str) -> dict[str, tuple[set[str], set[str]]]:
    """Of each room in the table of `docs/architecture.md`: what of ours it may know, and what it never imports."""
    doors = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if (
            not line.startswith("| `")
            or len(cells) != 3
            or not cells[0].startswith(("`jepawm", "`envs", "`ray_", "`tune"))
        ):
            continue
        may, never = ([word.strip() for word in cell.split(",") if word.strip()] for cell in cells[1:])
        if may == ["nothing"]:
            known = set()
        elif may == ["everything"]:
            known = {"jepawm"}
        else:
            known = COMMON | {f"jepawm.{word}" for word in may}
        banned = set().union(*(HEAVY if word == "heavy" else {word} for word in never))
        doors[cells[0].strip("`")] = (known, banned)
    return doors


DOORS = read_doors(TABLE.read_text("utf-8"))
KNOW_RAY = {"jepawm.distributed", "ray_jobs"}
# The one place outside those rooms which may name `jepawm.distributed`, inside a function.
TO_DISTRIBUTED = {"jepawm.runs"}

# Elsewhere a function takes its section.
HOLD_A_RUN = ("jepawm.config", "jepawm.runs", "jepawm.cli", "jepawm.distributed")


def modules() -> dict[str, Path]:
    found = {}
    for root in ("jepawm", "envs", "ray_jobs", "tune_spaces"):
        for path in sorted((REPO / root).rglob("*.py")):
            name = ".".join(path.relative_to(REPO).with_suffix("").parts)
            found[name if name == "jepawm.__init__" else name.removesuffix(".__init__")] = path
    return found


def imports(source: str, package: str) -> list[tuple[str, bool]]:
    """Every imported name in full, and whether the import runs when the module is imported."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            # `from jepawm import data` names a room just as `from jepawm.data import x` does.
            found += [(f"{base}.{alias.name}" if base else alias.name, id(node) not in inside) for alias in node.names]
    return found


def is_within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(module: str) -> str | None:
    return max((room for room in DOORS if is_within(module, room)), key=len, default=None)


def violations(module: str, source: str) -> list[str]:
    room = room_of(module)
    if room is None:
        return [f"{module} has no room in the table of docs/architecture.md: say there what it may import"]
    may, never = DOORS[room]
    problems = []
    for name, at_import in imports(source, module.rpartition(".")[0]):
        # `from jepawm import __version__` names no room.
        of_ours = name.startswith("jepawm.") and not name.rpartition(".")[2].startswith("__")
        if any(is_within(name, banned) for banned in never):
            problems.append(f"{module} imports {name}: the room {room} never does")
        elif of_ours and not any(is_within(name, ours) for ours in may | {room}):
            problems.append(f"{module} imports {name}: the room {room} may not know it")
        elif is_within(name, "ray") and room not in KNOW_RAY:
            problems.append(f"{module} imports {name}: only {', '.join(sorted(KNOW_RAY))} may import ray")
        elif is_within(name, "jepawm.distributed") and room not in KNOW_RAY | TO_DISTRIBUTED:
            problems.append(f"{module} imports {name}: only jepawm.runs.runtime may")
        elif is_within(name, "jepawm.distributed") and room in TO_DISTRIBUTED and at_import:
            problems.append(f"{module} imports {name} when it is imported: it may when it is called")
    return problems


def test_every_import_goes_through_a_door() -> None:
    found = modules()
    assert {"jepawm.world_model", "jepawm.distributed.session", "envs.wall", "ray_jobs.train"} <= set(found)
    problems = [line for module, path in found.items() for line in violations(module, path.read_text("utf-8"))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jepawm.nn.mlp", "from jepawm.latent import Latent"),
        ("jepawm.encoders.conv", "from jepawm.predictors import mlp"),
        ("jepawm.encoders.conv", "from jepawm import predictors"),
        ("jepawm.encoders.conv", "from ..predictors import mlp"),
        ("jepawm.planning.cem", "def plan():\n    from jepawm.world_model import WorldModel"),
        ("jepawm.data.loading.windows", "def read():\n    import torch"),
        ("jepawm.training.loop", "import ray.train"),
        ("jepawm.evaluation.protocol", "import ray"),
        ("jepawm.training.loop", "def run():\n    from jepawm.distributed import train"),
        ("jepawm.runs.runtime", "from jepawm.distributed.runtime import RayRuntime"),
        ("envs.wall", "import jepawm.types"),
        ("jepawm.attic", "import numpy"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


def test_the_runtime_may_reach_ray_when_it_is_called() -> None:
    source = "def make_runtime():\n    from jepawm.distributed.runtime import RayRuntime"
    assert not violations("jepawm.runs.runtime", source)


def loaded_after(statement: str, *arguments: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}\ntry:\n    {statement}\nexcept SystemExit: pass\n"
    code += "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_only_the_upper_rooms_hold_a_whole_run() -> None:
    names = {"jepawm.config.RunConfig", "jepawm.config.run.RunConfig"}
    found = [
        module
        for module, path in modules().items()
        if is_within(module, "jepawm")
        and not any(is_within(module, room) for room in HOLD_A_RUN)
        and names & {name for name, _ in imports(path.read_text("utf-8"), module.rpartition(".")[0])}
    ]
    assert not found, "a function takes its section, not the run"


def test_import_jepawm_pulls_in_nothing_heavy() -> None:
    loaded = loaded_after("import jepawm")
    assert "jepawm" in loaded
    assert not loaded & {"ray", "mlflow", "gymnasium", "torch", "pymunk", "cv2", "pyarrow", "numpy"}


def test_import_of_the_pipeline_pulls_in_no_ray_and_no_simulator() -> None:
    loaded = loaded_after("import jepawm.runs.pipeline")
    assert "torch" in loaded
    assert not loaded & {"ray", "mlflow", "gymnasium", "pymunk"}


def test_the_command_line_is_read_without_torch_and_ray() -> None:
    loaded = loaded_after("import runpy; runpy.run_path('ray_jobs/train.py', run_name='__main__')", "--print-config")
    assert "tyro" in loaded
    assert not loaded & {"ray", "mlflow", "gymnasium", "torch", "cv2"}
