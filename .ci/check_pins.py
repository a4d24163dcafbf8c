"""Shows that constraints.txt resolves for every Python and platform that jepawm is set up on; installs nothing.

    make check-pins                                              all of them
    python .ci/check_pins.py --only linux-3.12 --extras pusht    one of them, with other extras

For each target pip makes a dry run with `--python-version` and `--platform`. These two flags choose the wheels only:
pip evaluates environment markers (`platform_system == "Linux"`) for the machine that it runs on. So a dry run for
macOS on Linux would ask for CUDA libraries. This script therefore gives pip the target's marker values as well.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# A wheel for an older C library (Linux) or system (macOS) runs on a newer one; pip wants every tag named.
LINUX_TAGS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + [
    f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")
]
MACOS_TAGS = [f"macosx_{major}_0_{kind}" for major in range(14, 10, -1) for kind in ("arm64", "universal2")]
PLATFORMS = {
    "linux": (
        LINUX_TAGS,
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    ),
    "macos": (
        MACOS_TAGS,
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    ),
}
# Published as source alone: the target compiles them. A dry run for another platform takes wheels only, so it gets an
# empty wheel of the pinned version (none of them requires anything).
SOURCE_ONLY = ("evdev",)
# Runs in a process of its own: `markers` is the environment in which pip evaluates every requirement.
PIP = """
import json, sys
from pip._vendor.packaging import markers
here = markers.default_environment()
target = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: {**here, **target}
from pip._internal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def empty_wheels(folder: str) -> None:
    """Writes a wheel without contents for each of `SOURCE_ONLY`, of the version in constraints.txt."""
    for name in SOURCE_ONLY:
        version = re.search(rf"^{name}==([^\s;]+)", (REPO / "constraints.txt").read_text(), flags=re.MULTILINE)[1]
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(Path(folder, f"{name}-{version}-py3-none-any.whl"), "w") as wheel:
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")


def dry_run(platform: str, python: str, requirement: str) -> list[str]:
    """Resolves `requirement` under constraints.txt as a machine of `platform` with `python` would.

    Returns:
        The packages with their versions, sorted.

    Raises:
        SystemExit: pip finds no set of wheels; its own words are printed.
    """
    tags, markers = PLATFORMS[platform]
    markers = {**markers, "python_version": python, "python_full_version": f"{python}.0"}
    with tempfile.TemporaryDirectory() as folder:
        empty_wheels(folder)
        report = Path(folder, "report.json")
        command = [sys.executable, "-c", PIP, json.dumps(markers), "install", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--no-build-isolation", "--python-version", python]
        command += [word for tag in tags for word in ("--platform", tag)]
        command += ["--target", folder, "--report", str(report), "--disable-pip-version-check"]
        command += ["--find-links", folder, "-c", "constraints.txt", requirement]
        done = subprocess.run(
            command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            lines = done.stdout.splitlines()
            first = next((number for number, line in enumerate(lines) if line.startswith("ERROR")), 0)
            raise SystemExit("\n".join(lines[first:]))
        chosen = json.loads(report.read_text())["install"]
    return sorted(f"{part['metadata']['name']}=={part['metadata']['version']}" for part in chosen)


def main() -> int:
    """Makes the dry runs; 0 if all of them resolve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [f"{platform}-{python}" for platform in PLATFORMS for python in PYTHONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="TARGET", help=", ".join(names))
    parser.add_argument("--extras", default="", help="as in `make setup EXTRAS=...`")
    parser.add_argument("--list", action="store_true", help="print the packages of each target")
    options = parser.parse_args()
    failed = 0
    for name in options.only:
        try:
            packages = dry_run(*name.split("-"), f".[{options.extras}]" if options.extras else ".")
        except SystemExit as error:
            failed += 1
            print(f"{name}: does not resolve\n{error}", flush=True)
            continue
        print(f"{name}: {len(packages)} packages", flush=True)
        if options.list:
            print("\n".join(f"  {package}" for package in packages))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
