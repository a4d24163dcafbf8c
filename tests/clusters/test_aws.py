"""cluster.yaml on AWS, and the script that prepares an account for it, against a stand-in of AWS's command line."""

import os
import re
import subprocess
from pathlib import Path

import yaml
from cluster_files import program, read

# What is written into the file by hand, or by the script.
TO_FILL_IN = re.compile(r"(ami|sg|fs)-0{17}")


def test_the_nodes_of_aws_have_a_security_group_of_their_own_and_encrypted_disks(repo):
    cluster = read(repo, "cluster.yaml")
    for node in cluster["available_node_types"].values():
        config = node["node_config"]
        # Without its own group, Ray makes one that lets every address connect by SSH.
        assert config["SecurityGroupIds"]
        assert config["ImageId"].startswith("ami-")
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])
    assert set(TO_FILL_IN.findall((repo / "cluster.yaml").read_text())) == {"ami", "sg", "fs"}


AWS = r"""#!/usr/bin/env bash
# Stands for the command line of AWS: an account that has a default VPC with two subnets and nothing else.
echo "$*" >> "$CALLS"
case "$*" in
  *"ssm get-parameter"*) echo ami-1a ;;
  *describe-vpcs*) echo "${VPC:-vpc-1}" ;;
  *"describe-security-groups --filters"*) echo "${GROUP:-None}" ;;
  *create-security-group*) echo sg-2b ;;
  *"describe-security-groups --group-ids"*) echo "${ALLOWED:-}" ;;
  *LifeCycleState*) echo available ;;
  *describe-file-systems*) echo "${FILES:-None}" ;;
  *create-file-system*) echo fs-3c ;;
  *describe-mount-targets*) echo "${MOUNTED:-}" ;;
  *describe-subnets*) printf 'subnet-1\tsubnet-2\n' ;;
esac
"""


def prepare_aws(repo: Path, programs: Path, **account: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    calls = programs / "calls"
    calls.write_text("")
    command = ["bash", str(repo / "docs/clusters/aws_prepare.sh"), "eu-west-1", "198.51.100.7"]
    done = subprocess.run(command, env=os.environ | account, capture_output=True, text=True)
    return done, calls.read_text().splitlines()


def test_an_aws_account_is_prepared_once_and_the_file_gets_its_ids(repo, programs):
    program(programs, "aws", AWS)
    done, calls = prepare_aws(repo, programs)
    assert done.returncode == 0, done.stderr
    cluster = yaml.safe_load(done.stdout)
    assert not TO_FILL_IN.search(done.stdout)
    assert cluster["provider"]["region"] == "eu-west-1"
    node = cluster["available_node_types"]["gpu_spot"]["node_config"]
    assert (node["ImageId"], node["SecurityGroupIds"]) == ("ami-1a", ["sg-2b"])
    assert any("fs-3c.efs.eu-west-1.amazonaws.com:/" in command for command in cluster["initialization_commands"])
    opened = [call for call in calls if "authorize-security-group-ingress" in call]
    assert len(opened) == 2
    assert opened[0].endswith("--group-id sg-2b --protocol all --source-group sg-2b")
    assert opened[1].endswith("--group-id sg-2b --protocol tcp --port 22 --cidr 198.51.100.7/32")
    assert any("create-file-system" in call and "--encrypted" in call for call in calls)
    targets = [call for call in calls if "create-mount-target" in call]
    assert ["--subnet-id subnet-1 " in call for call in targets] == [True, False]
    assert all("--security-groups sg-2b" in call for call in targets)
    assert all(call.startswith("--region eu-west-1 ") for call in calls)


def test_preparing_again_makes_nothing_twice_and_lets_a_new_address_in(repo, programs):
    program(programs, "aws", AWS)
    account = {"GROUP": "sg-2b", "FILES": "fs-3c", "MOUNTED": "subnet-1\tsubnet-2"}
    done, calls = prepare_aws(repo, programs, **account, ALLOWED="198.51.100.7/32")
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if re.search(r"create-|authorize-", call)]
    # Not the beginning of another address.
    done, calls = prepare_aws(repo, programs, **account, ALLOWED="198.51.100.70/32")
    assert len([call for call in calls if "authorize-" in call]) == 1
    done, _ = prepare_aws(repo, programs, VPC="None")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "has no default VPC" in done.stderr
