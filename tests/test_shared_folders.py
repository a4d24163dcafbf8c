"""Tokens in shared folders, and what is said of nodes that do not share them or run other code; without a Ray."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jepawm import shared_folders
from jepawm.errors import ConfigError, StorageError
from jepawm.shared_folders import (
    ClusterNode,
    ClusterReport,
    Folders,
    check_sees,
    code_versions,
    examine,
    mount_of,
    tokens_left,
    with_answers_read,
)

DRIVER = ClusterNode("driver", "head-1")
NODES = [ClusterNode("a1", "cpu-1 (10.0.0.7)"), ClusterNode("b2", "gpu-1 (10.0.0.8)")]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    (tmp_path / "episodes").mkdir()
    return Folders({"$JEPAWM_HOME": str(tmp_path / "home")}, {"data.path": str(tmp_path / "episodes")})


def report_of(folders: Folders, *, between=lambda token: None, after=lambda token: None) -> ClusterReport:
    """What two nodes on this machine find; something may happen before the second one looks, and before the driver."""
    with tokens_left(folders) as token:
        first = examine(NODES[0], folders, token)
        between(token)
        second = examine(NODES[1], folders, token)
        after(token)
        reports = with_answers_read(folders, token, (first, second))
        return ClusterReport(folders, examine(DRIVER, folders, token), reports)


def test_nodes_that_share_the_folders_pass_and_no_token_is_left(folders: Folders) -> None:
    report = report_of(folders)
    report.check()
    assert report.problems() == [] == report.idle_gpus()
    assert os.listdir(folders.written["$JEPAWM_HOME"]) == []


def test_a_folder_of_the_same_name_on_another_disk_is_named_with_its_node_and_mounts(folders: Folders) -> None:
    home = Path(folders.written["$JEPAWM_HOME"])

    def hide(token: str) -> None:
        shutil.move(home, home.with_name("elsewhere"))
        home.mkdir()

    def show(token: str) -> None:
        home.rmdir()
        shutil.move(home.with_name("elsewhere"), home)

    report = report_of(folders, between=hide, after=show)
    (problem,) = report.problems()
    assert f"$JEPAWM_HOME ({home}) is not the same folder on all nodes" in problem
    assert f"The driver on head-1 has {mount_of(str(home))}" in problem
    assert "node gpu-1 (10.0.0.8): another folder of that name, without the driver's token" in problem
    assert "cpu-1" not in problem
    with pytest.raises(ConfigError, match="Mount one file system there on every node"):
        report.check()


def test_a_missing_folder_and_a_missing_dataset_are_two_problems(folders: Folders) -> None:
    def remove(token: str) -> None:
        shutil.rmtree(folders.written["$JEPAWM_HOME"])
        os.rmdir(folders.read["data.path"])

    problems = report_of(folders, between=remove).problems()
    assert len(problems) == 2
    assert all("node gpu-1 (10.0.0.8): it is not there" in problem for problem in problems)
    assert "data.path" in problems[1]


def test_an_answer_that_the_driver_does_not_see_is_a_problem(folders: Folders) -> None:
    def lose(token: str) -> None:
        Path(folders.written["$JEPAWM_HOME"], token, "a1").unlink()

    (problem,) = report_of(folders, after=lose).problems()
    assert "node cpu-1 (10.0.0.7): the driver does not see what the node wrote there" in problem


def test_a_folder_that_the_driver_cannot_make_is_refused_before_a_node_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = Folders({"run_dir": str(tmp_path / "file" / "run")})
    with pytest.raises(ConfigError, match=r"run_dir \(.*\) cannot be written to: Not a directory"):
        with tokens_left(folders):
            pass


def test_other_code_on_a_node_is_told_with_its_versions(folders: Folders) -> None:
    report = report_of(folders)
    ours = code_versions()
    stale = replace(report.nodes[0], versions=replace(ours, sources="00000000"))
    other_torch = replace(report.nodes[1], versions=replace(ours, torch="2.1.0+cpu", cuda=None))
    problems = replace(report, nodes=(stale, other_torch)).problems()
    assert len(problems) == 2
    assert f"sources {ours.sources}; node cpu-1 (10.0.0.7)" in problems[0]
    assert "sources 00000000" in problems[0]
    assert "node gpu-1 (10.0.0.8): torch 2.1.0+cpu" in problems[1]


def test_another_build_of_the_same_torch_passes_and_is_told_where_it_leaves_gpus_idle(folders: Folders) -> None:
    report = report_of(folders)
    ours = code_versions()
    versions = replace(ours, torch=f"{ours.torch_release}+cpu", cuda=None)
    for gpus, told in ((0.0, 0), (1.0, 1)):
        node = replace(report.nodes[0], node=replace(NODES[0], num_gpus=gpus), versions=versions)
        found = replace(report, nodes=(node,))
        found.check()
        assert len(found.idle_gpus()) == told


def test_nodes_without_an_answer_are_counted_where_they_are_many(folders: Folders) -> None:
    report = report_of(folders)
    silent = [replace(report.nodes[0], node=ClusterNode(str(i), f"n{i}"), failure="no answer") for i in range(8)]
    (problem,) = replace(report, nodes=tuple(silent)).problems()
    assert "node n4: no answer; and 3 more" in problem
    assert "n5" not in problem


def test_the_mount_of_a_path_is_the_longest_that_holds_it_and_the_last_of_those(tmp_path: Path, monkeypatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /mnt/my\\040data rw - nfs4 fs-1:/ rw,vers=4.1\n"
        "31 22 0:41 / /mnt rw - tmpfs none rw\n"
        "32 22 0:42 / /mnt rw master:2 - overlay overlay rw\n"
    )
    monkeypatch.setattr(shared_folders, "MOUNTS", str(table))
    assert mount_of("/mnt/my data/not/there") == "nfs4 fs-1:/ at /mnt/my data"
    assert mount_of("/mnt/my") == "overlay overlay at /mnt"
    assert mount_of("/mntx") == "ext4 /dev/sda1 at /"
    monkeypatch.setattr(shared_folders, "MOUNTS", str(tmp_path / "nothing"))
    assert mount_of("/mnt") == "mount unknown"


def test_a_worker_on_a_node_that_joined_later_names_the_node_that_lacks_the_folder(tmp_path: Path) -> None:
    check_sees(str(tmp_path), "the run directory")
    with pytest.raises(ConfigError, match=r"the run directory .*gone is not there on node .* at "):
        check_sees(str(tmp_path / "gone"), "the run directory")


def test_the_versions_are_those_that_are_imported(monkeypatch) -> None:
    import torch

    versions = code_versions()
    assert versions.torch == torch.__version__
    assert versions.cuda == torch.version.cuda
    assert versions.sources in str(versions)


def test_a_node_that_cannot_use_the_object_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(store: str) -> None:
        asked.append(store)
        if len(asked) == 2:
            raise StorageError(f"{store}: permission denied")

    monkeypatch.setattr(shared_folders, "open_store", lambda uri: uri)
    monkeypatch.setattr(shared_folders, "check_store", check)
    report = report_of(Folders({}, stores={"$JEPAWM_HOME": "s3://bucket/home"}))
    assert asked == ["s3://bucket/home"] * 3
    with pytest.raises(ConfigError, match=r"\$JEPAWM_HOME \(s3://bucket/home\) cannot be used on all nodes") as refused:
        report.check()
    assert "node gpu-1 (10.0.0.8): s3://bucket/home: permission denied" in str(refused.value)
    assert "cpu-1" not in str(refused.value)
