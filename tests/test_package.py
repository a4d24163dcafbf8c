"""What surrounds the library: what is kept out of git and of uploads, and the search spaces."""

import subprocess

import pytest

UPLOADED = ("jepawm", "envs", "ray_jobs", "tune_spaces")


@pytest.mark.parametrize(("ignored_by", "folders"), [(".gitignore", (*UPLOADED, "tests")), (".rayignore", UPLOADED)])
def test_no_room_of_the_package_is_ignored(repo, ignored_by, folders):
    """A pattern `runs/` would keep new files of `jepawm/runs` out of git, and the whole room off a cluster."""
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout")
    packages = (repo / name for name in folders)
    files = [path for package in packages for path in package.rglob("*.py") if "__pycache__" not in path.parts]
    ours = {f"{folder.relative_to(repo).as_posix()}/new_module.py" for folder in {path.parent for path in files}}
    command = ["git", "-c", f"core.excludesFile={repo / ignored_by}", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(
        command, cwd=repo, input="\n".join([*ours, "runs/x/eval.json"]), capture_output=True, text=True
    )
    assert done.stdout.split() == ["runs/x/eval.json"], done.stderr
