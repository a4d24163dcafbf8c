"""Where things are kept: one root for runs, datasets, evaluations and the tracker's database.

The root is a folder, or a URI of an object store (`s3://BUCKET/PATH`, `gs://BUCKET/PATH`). Programs work in folders, so
each URI has a working copy on the local disk, whose path follows from the URI alone; `jepawm.storage` moves files
between the two. A path below the folder of working copies is thereby known to stand for a URI.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from jepawm.errors import ConfigError, did_you_mean

# Scheme: the variables that name another address than the provider's.
SCHEMES: dict[str, tuple[str, ...]] = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def home() -> str:
    """Root of runs and datasets: `$JEPAWM_HOME`, else `./runs`; under `ray job submit`, `~/jepawm-runs`.

    Where `$JEPAWM_HOME` is a URI, this is the folder of its working copy.
    Ray deletes the working directory of a submitted job when the job ends, so nothing is kept there.

    Raises:
        ConfigError: A URI that names no place in a known object store.
    """
    chosen = os.environ.get("JEPAWM_HOME")
    if chosen:
        return mirror_of(chosen) if is_uri(chosen) else os.path.abspath(os.path.expanduser(chosen))
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return os.path.expanduser("~/jepawm-runs")
    return os.path.abspath("runs")


def datasets_dir() -> str:
    """Folder of the datasets that runs share."""
    return os.path.join(home(), "datasets")


def evaluations_dir() -> str:
    """Folder of evaluations that belong to no run."""
    return os.path.join(home(), "evaluations")


def default_tracking_uri() -> str:
    """Address of the MLflow database beside the runs; characters that mean something in an address are quoted."""
    return f"sqlite:///{quote(os.path.join(home(), 'mlflow.db'))}"


def default_artifacts_uri() -> str:
    """Where that database keeps the files of its runs: beside the runs too, whatever the current folder is."""
    return Path(home(), "mlartifacts").as_uri()


def is_uri(text: str) -> bool:
    """Whether a text is a URI rather than a path."""
    return _SCHEME.match(text) is not None


def checked_uri(uri: str) -> str:
    """A URI of an object store without a slash at its end.

    Raises:
        ConfigError: Another scheme, no bucket, or parts that do not belong there. The error never repeats credentials.
    """
    parts = urlsplit(uri)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"{shown}: unknown kind of address '{parts.scheme}'{did_you_mean(parts.scheme, SCHEMES)}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"{shown}: the URI carries credentials or options, which would be shown and logged with it; expected "
            f"{parts.scheme}://BUCKET/PATH alone, with credentials in the environment or from the machine's own role"
        )
    names = [name for name in parts.path.split("/") if name]
    if not parts.netloc or ".." in names or "." in names:
        raise ConfigError(f"{shown}: expected {parts.scheme}://BUCKET/PATH")
    return "/".join([f"{parts.scheme}://{parts.netloc}", *names])


def mirrors_dir() -> str:
    """Folder of the working copies of URIs: `$JEPAWM_CACHE/mirror`, else `~/.cache/jepawm/mirror`; on a local disk."""
    root = os.environ.get("JEPAWM_CACHE") or os.path.join("~", ".cache", "jepawm")
    return os.path.join(os.path.abspath(os.path.expanduser(root)), "mirror")


def mirror_of(uri: str) -> str:
    """The local folder or file that stands for a URI.

    Raises:
        ConfigError: A URI that names no place in a known object store.
    """
    scheme, _, rest = checked_uri(uri).partition("://")
    return os.path.join(mirrors_dir(), _service(scheme), *rest.split("/"))


def uri_of(path: str | os.PathLike[str]) -> str | None:
    """The URI that a local path stands for; None for any other path."""
    inside = os.path.relpath(os.path.abspath(path), mirrors_dir()).split(os.sep)
    scheme = unquote(inside[0]).partition("+")[0]
    if scheme not in SCHEMES or len(inside) < 2:
        return None
    return f"{scheme}://{'/'.join(inside[1:])}"


def local_path(text: str) -> str:
    """A path, or the local path that stands for a URI."""
    return mirror_of(text) if is_uri(text) else text


def portable_path(path: str | os.PathLike[str]) -> str:
    """What names a local path on other machines too: the URI that it stands for, else its absolute path."""
    return uri_of(path) or os.path.abspath(path)


def _service(scheme: str) -> str:
    """First folder of a working copy; buckets of one name may lie in several services."""
    address = next((os.environ[name] for name in SCHEMES[scheme] if os.environ.get(name)), "")
    if not address:
        return scheme
    place = urlsplit(address if "://" in address else f"//{address}")
    return quote(f"{scheme}+{place.hostname or ''}" + (f":{place.port}" if place.port else ""), safe="+")
