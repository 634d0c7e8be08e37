"""`cluster/aws.yaml`, launched by Ray's own code on a simulated EC2, and what IAM makes of it."""

import copy
import json
from typing import Any

import jsonschema
import pytest
from aws_account import ACCOUNT, REGION, Account, Nodes, launch_nodes, ray_launcher
from iam import Access, access_of_ec2, actions_of, is_allowed

GPU, CPU = ("gpu-g6", "gpu-g5", "gpu-g4dn"), ("cpu-c7i", "cpu-m7i")
BUCKET = "arn:aws:s3:::scans"


@pytest.fixture(scope="module")
def nodes(aws: Account) -> Nodes:
    """A node of each type."""
    return launch_nodes(aws)


@pytest.fixture(scope="module")
def policies(aws: Account) -> dict[str, list[dict[str, Any]]]:
    """The documents of each role, as IAM has them."""
    return {node: aws.read_policies(f"mnist-ocr-{node}") for node in ("head", "worker")}


def test_the_schema_knows_every_key(aws: Account) -> None:
    """Ray's validator accepts the file, and refuses it with a key that is not Ray's."""
    ray = ray_launcher()
    config = ray.prepare_config(aws.read_config())
    ray.validate_config(config)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        ray.validate_config({**config, "max_worker": 1})
    config["available_node_types"]["gpu-g6"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        ray.validate_config(config)


@pytest.mark.parametrize(
    ("node", "instance_type", "resources"),
    [
        ("head", "m7i.large", {"CPU": 0}),
        ("gpu-g6", "g6.xlarge", {"CPU": 4, "GPU": 1}),
        ("gpu-g5", "g5.xlarge", {"CPU": 4, "GPU": 1}),
        ("gpu-g4dn", "g4dn.xlarge", {"CPU": 4, "GPU": 1}),
        ("cpu-c7i", "c7i.2xlarge", {"CPU": 8}),
        ("cpu-m7i", "m7i.2xlarge", {"CPU": 8}),
    ],
)
def test_nodes(nodes: Nodes, node: str, instance_type: str, resources: dict[str, int]) -> None:
    """The head offers no CPU, workers are spot; all have a role, IMDSv2 and an encrypted disk."""
    instance = nodes.instances[node]
    assert instance["InstanceType"] == instance_type
    assert instance.get("InstanceLifecycle") == (None if node == "head" else "spot")
    profile = "mnist-ocr-head" if node == "head" else "mnist-ocr-worker"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert nodes.disks[node]["Encrypted"]
    disks = [disk["Ebs"]["DeleteOnTermination"] for disk in instance["BlockDeviceMappings"]]
    assert disks == [True]
    kinds = ("CPU", "GPU")
    assert {k: nodes.resources[node][k] for k in kinds if k in nodes.resources[node]} == resources


def test_no_firewall_but_the_given_one(nodes: Nodes, aws: Account) -> None:
    """Ray makes no group of its own, which would open SSH to all."""
    for instance in nodes.instances.values():
        assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["mnist-ocr"]
    groups = aws.ec2.describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "mnist-ocr"}


def test_what_may_run_is_bounded(aws: Account) -> None:
    """Nothing runs beside the head that was not asked for, and each kind has several types."""
    config = ray_launcher().prepare_config(aws.read_config())
    types = config["available_node_types"]
    assert config["max_workers"] == 8
    assert config["idle_timeout_minutes"] == 10
    assert set(types) == {"head", *GPU, *CPU}
    for kind in (GPU, CPU):
        assert [(types[name]["min_workers"], types[name]["max_workers"]) for name in kind] == [
            (0, 4)
        ] * len(kind)
        priorities = [types[name]["priority"] for name in kind]
        assert priorities == sorted(set(priorities), reverse=True)


def test_the_head_may_do_what_the_autoscaler_does(
    nodes: Nodes, policies: dict[str, list[dict[str, Any]]]
) -> None:
    """Start, tag and end workers of each type; and nothing is granted that it does not do."""
    asked = [each for each in nodes.requests if each.node != "head"]
    refused = [a for each in asked for a in each.access if not is_allowed(policies["head"], a)]
    assert refused == []
    used = {access.action for each in asked for access in each.access}
    granted = actions_of(policies["head"])
    assert {action for action in granted if not action.startswith("s3:")} == used


@pytest.mark.parametrize(
    "change",
    [
        {"InstanceType": "p5.48xlarge"},
        {"IamInstanceProfile": {"Name": "mnist-ocr-head"}},
        {"IamInstanceProfile": {"Name": "admin"}},
        {"TagSpecifications": []},
        {"TagSpecifications": [{"Tags": [{"Key": "ray-cluster-name", "Value": "other"}]}]},
        {"MetadataOptions": {"HttpTokens": "optional"}},
        {"BlockDeviceMappings": [{"Ebs": {"Encrypted": False}}]},
        {"SecurityGroupIds": ["sg-open"]},
        {"ImageId": "ami-other"},
        {"KeyName": "other"},
    ],
    ids=json.dumps,
)
def test_the_head_may_start_no_other_instance(
    nodes: Nodes, policies: dict[str, list[dict[str, Any]]], change: dict[str, Any]
) -> None:
    """Larger ones, with another role, other's, open or unencrypted ones."""
    launch = next(r for r in nodes.requests if (r.node, r.operation) == ("gpu-g6", "RunInstances"))
    changed = {**copy.deepcopy(launch.parameters), **change}
    access = access_of_ec2("RunInstances", changed, f"{REGION}:{ACCOUNT}", {})
    assert not all(is_allowed(policies["head"], each) for each in access)


EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
OURS = {"aws:ResourceTag/ray-cluster-name": "mnist-ocr"}
OTHERS = {"aws:ResourceTag/ray-cluster-name": "other"}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}


@pytest.mark.parametrize(
    ("roles", "access"),
    [
        ("head worker", Access("s3:ListBucket", BUCKET)),
        ("head worker", Access("s3:GetObject", f"{BUCKET}/scans/2026/1.png")),
        ("head worker", Access("s3:GetObject", f"{BUCKET}/models/cnn/model.json")),
        ("head worker", Access("s3:PutObject", f"{BUCKET}/models/cnn/model.json")),
        ("head worker", Access("s3:GetObject", f"{BUCKET}/labels/_job.json")),
        ("head worker", Access("s3:PutObject", f"{BUCKET}/labels/_job.json")),
        ("head worker", Access("s3:DeleteObject", f"{BUCKET}/labels/_lease/1.json")),
        ("head worker", Access("s3:AbortMultipartUpload", f"{BUCKET}/labels/part-1.parquet")),
        ("", Access("s3:PutObject", f"{BUCKET}/scans/2026/1.png")),
        ("", Access("s3:DeleteObject", f"{BUCKET}/scans/2026/1.png")),
        ("", Access("s3:GetObject", f"{BUCKET}/payroll/2026.csv")),
        ("", Access("s3:GetObject", f"{BUCKET}/scans-of-others/1.png")),
        ("", Access("s3:GetObject", "arn:aws:s3:::scans-2/scans/1.png")),
        ("", Access("s3:ListBucket", "arn:aws:s3:::scans-2")),
        ("", Access("s3:DeleteBucket", BUCKET)),
        ("", Access("s3:PutBucketPolicy", BUCKET)),
        ("", Access("s3:GetObjectVersion", f"{BUCKET}/scans/2026/1.png")),
        ("", Access("s3:DeleteObjectVersion", f"{BUCKET}/labels/_job.json")),
        ("head", Access("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS)),
        ("", Access("ec2:TerminateInstances", f"{EC2}:instance/i-1", OTHERS)),
        ("", Access("ec2:TerminateInstances", f"{EC2}:instance/i-1")),
        ("head", Access("ec2:CreateTags", f"{EC2}:instance/i-1", OURS)),
        ("", Access("ec2:CreateTags", f"{EC2}:instance/i-1", OTHERS)),
        ("", Access("ec2:CreateTags", f"{EC2}:security-group/sg-1", OURS)),
        ("", Access("ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/sg-1")),
        ("", Access("ec2:StartInstances", f"{EC2}:instance/i-1", OURS)),
        ("", Access("ec2:ModifyInstanceMetadataOptions", f"{EC2}:instance/i-1", OURS)),
        ("head", Access("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/mnist-ocr-worker", TO_EC2)),
        ("", Access("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/mnist-ocr-head", TO_EC2)),
        ("", Access("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/mnist-ocr-worker")),
        ("", Access("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/mnist-ocr-worker")),
        ("", Access("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/admin")),
    ],
    ids=str,
)
def test_what_each_role_may_do(
    policies: dict[str, list[dict[str, Any]]], roles: str, access: Access
) -> None:
    """And what neither may."""
    assert [role for role in policies if is_allowed(policies[role], access)] == roles.split()
