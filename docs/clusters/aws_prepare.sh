#!/usr/bin/env bash
# Prepares an AWS account for cluster.yaml and prints the file with its ids filled in. What is there already is kept, so
# the script may be repeated, for instance when your own address has changed.
#
#   bash docs/clusters/aws_prepare.sh REGION [ADDRESS] > my-cluster.yaml
#
# ADDRESS is the one that may connect by SSH; without it, the address that this machine has on the internet.
# It makes, in the region's default VPC: a security group `jepawm` (everything between its members, SSH from ADDRESS),
# and an encrypted EFS file system `jepawm` with a mount target in every subnet. It needs the AWS command line.
set -euo pipefail

region=${1:?usage: aws_prepare.sh REGION [ADDRESS] > my-cluster.yaml}
address=${2:-$(curl -fsS https://checkip.amazonaws.com)}
template=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/cluster.yaml
image=/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id

ask() { aws --region "$region" --output text "$@"; }
say() { echo "$*" >&2; }

ami=$(ask ssm get-parameter --name "$image" --query Parameter.Value)
say "image           $ami"

vpc=$(ask ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[0].VpcId')
if [ "$vpc" = None ]; then
  say "error: region $region has no default VPC; make one with: aws ec2 create-default-vpc --region $region"
  exit 1
fi

group=$(ask ec2 describe-security-groups --filters Name=group-name,Values=jepawm "Name=vpc-id,Values=$vpc" \
  --query 'SecurityGroups[0].GroupId')
if [ "$group" = None ]; then
  group=$(ask ec2 create-security-group --group-name jepawm --vpc-id "$vpc" --query GroupId \
    --description "Nodes of a jepawm cluster and their file system")
  ask ec2 authorize-security-group-ingress --group-id "$group" --protocol all --source-group "$group" >&2
fi
allowed=$(ask ec2 describe-security-groups --group-ids "$group" \
  --query 'SecurityGroups[0].IpPermissions[?FromPort==`22`].IpRanges[].CidrIp')
if ! grep -qwF "$address/32" <<<"$allowed"; then
  ask ec2 authorize-security-group-ingress --group-id "$group" --protocol tcp --port 22 --cidr "$address/32" >&2
fi
say "security group  $group (SSH from $address)"

files=$(ask efs describe-file-systems --query "FileSystems[?Name=='jepawm'].FileSystemId | [0]")
if [ "$files" = None ]; then
  files=$(ask efs create-file-system --creation-token jepawm --encrypted --throughput-mode elastic \
    --tags Key=Name,Value=jepawm --query FileSystemId)
fi
state() { ask efs describe-file-systems --file-system-id "$files" --query 'FileSystems[0].LifeCycleState'; }
for _ in $(seq 60); do now=$(state); if [ "$now" = available ]; then break; fi; sleep 5; done
if [ "$now" != available ]; then say "error: file system $files is $now after 5 minutes"; exit 1; fi
mounted=$(ask efs describe-mount-targets --file-system-id "$files" --query 'MountTargets[].SubnetId')
for subnet in $(ask ec2 describe-subnets --filters "Name=vpc-id,Values=$vpc" Name=default-for-az,Values=true \
  --query 'Subnets[].SubnetId'); do
  if ! grep -qwF "$subnet" <<<"$mounted"; then
    ask efs create-mount-target --file-system-id "$files" --subnet-id "$subnet" --security-groups "$group" \
      --query MountTargetId >&2
  fi
done
say "file system     $files"

sed -e "s/ami-0\{17\}/$ami/; s/sg-0\{17\}/$group/; s/fs-0\{17\}/$files/; s/us-west-2/$region/g" "$template"
