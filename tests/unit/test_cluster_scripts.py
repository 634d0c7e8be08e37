"""`cluster/setup.sh` and `cluster/teardown.sh`, run in a simulated AWS account."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aws_cli
import boto3
import pytest
from aws_account import ACCOUNT, ROOT, Account
from botocore.exceptions import ClientError
from iam import Access, is_allowed
from manifests import documents, read_settings

run_aws = aws_cli.run


def describe(account: Account) -> dict[str, Any]:
    """What setup.sh may create."""
    iam, ec2 = boto3.client("iam"), account.ec2
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    roles = [name for name in roles if not name.startswith("AWSServiceRole")]
    profiles = iam.list_instance_profiles()["InstanceProfiles"]
    groups = ec2.describe_security_groups()["SecurityGroups"]
    return {
        "policies": {role: account.read_policies(role) for role in roles},
        "profiles": {
            p["InstanceProfileName"]: [r["RoleName"] for r in p["Roles"]] for p in profiles
        },
        "groups": {group["GroupName"]: group["IpPermissions"] for group in groups},
        "keys": [key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]],
    }


def test_setup_makes_roles_firewall_and_token(aws: Account) -> None:
    """Each node has its role; SSH is open to one address, everything to the group itself."""
    found = describe(aws)
    assert found["profiles"] == {
        f"mnist-ocr-{node}": [f"mnist-ocr-{node}"] for node in ("head", "worker")
    }
    assert {name: len(documents) for name, documents in found["policies"].items()} == {
        "mnist-ocr-head": 2,
        "mnist-ocr-worker": 1,
    }
    inside, ssh = sorted(found["groups"]["mnist-ocr"], key=lambda rule: rule["IpProtocol"])
    (group,) = aws.read_config()["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [group]
    assert inside["IpRanges"] == []
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert [each["CidrIp"] for each in ssh["IpRanges"]] == ["203.0.113.7/32"]
    spot = boto3.client("iam").list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")
    assert len(spot["Roles"]) == 1
    token = aws.home / ".ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) > 30


def test_setup_again_changes_nothing_but_your_address(aws: Account) -> None:
    """Whatever is there stays; SSH is open to the new address only; the image is kept."""
    before, rendered = describe(aws), aws.read_config()
    token = (aws.home / ".ray/auth_token").read_text()
    (image,) = {
        node["node_config"]["ImageId"] for node in rendered["available_node_types"].values()
    }
    aws.set(SSH_CIDR="203.0.113.8/32", AMI="")
    done = aws.run("setup.sh")
    aws.set(SSH_CIDR="203.0.113.7/32", AMI=image)
    assert done.returncode == 0, done.stderr
    after = describe(aws)
    ssh = next(rule for rule in after["groups"]["mnist-ocr"] if rule["IpProtocol"] == "tcp")
    assert [each["CidrIp"] for each in ssh["IpRanges"]] == ["203.0.113.8/32"]
    after["groups"] = before["groups"]
    assert after == before
    assert aws.read_config() == rendered
    assert (aws.home / ".ray/auth_token").read_text() == token


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BUCKET": ""}, "set it in cluster/settings.sh"),
        ({"BUCKET": "nowhere"}, "cannot open the bucket nowhere"),
        ({"SSH_CIDR": "0.0.0.0/0"}, "which is everybody"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "the bucket scans is in us-west-2"),
    ],
)
def test_setup_refuses_before_it_makes_anything(
    aws: Account, settings: dict[str, str], message: str
) -> None:
    """What settings.sh lacks, or should not say, is one sentence."""
    aws.set(CLUSTER_NAME="refused", **settings)
    done = aws.run("setup.sh")
    aws.set(
        CLUSTER_NAME="mnist-ocr",
        BUCKET="scans",
        SSH_CIDR="203.0.113.7/32",
        AWS_DEFAULT_REGION="us-west-2",
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "refused" not in str(describe(aws))


def test_teardown_removes_all_of_it(aws: Account) -> None:
    """Instances that still run, too; other clusters stay; a second time there is nothing to do."""
    before, rendered = describe(aws), aws.cluster / "rendered.yaml"
    kept = rendered.read_text(encoding="utf-8")
    aws.set(CLUSTER_NAME="second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws_cli, "run", list_no_group)
        done = aws.run("setup.sh")
        assert done.returncode == 0, done.stderr
    (aws.home / ".ssh").mkdir(exist_ok=True)
    for name in ("second", "second_key-1"):  # as Ray does
        aws.ec2.create_key_pair(KeyName=name)
        (aws.home / f".ssh/{name}.pem").touch()
    (group,) = aws.read_config()["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    for cluster in ("second", "other"):
        aws.ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            SecurityGroupIds=[group] if cluster == "second" else [],
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": "ray-cluster-name", "Value": cluster}],
                }
            ],
        )
    assert "second" in str(describe(aws))
    for _ in range(2):
        done = aws.run("teardown.sh")
        assert done.returncode == 0, done.stderr
        assert "second" not in str(describe(aws))
    aws.set(CLUSTER_NAME="mnist-ocr")
    assert not rendered.exists()
    rendered.write_text(kept, encoding="utf-8")
    assert describe(aws) == before
    assert not list((aws.home / ".ssh").glob("second*"))
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    (reservation,) = aws.ec2.describe_instances(Filters=running)["Reservations"]
    (other,) = reservation["Instances"]
    assert {"Key": "ray-cluster-name", "Value": "other"} in other["Tags"]
    aws.ec2.terminate_instances(InstanceIds=[other["InstanceId"]])


def list_no_group(arguments: Sequence[str], cwd: Path, region: str) -> str:
    """As `aws` does while EC2 does not list yet what was just made."""
    if arguments[1] == "describe-security-groups" and "--filters" in arguments:
        return "None\n"
    return run_aws(arguments, cwd, region)


def test_teardown_removes_our_group_alone(aws: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its name in another VPC stays; one that is still in use is asked to go again."""
    kept = (aws.cluster / "rendered.yaml").read_text(encoding="utf-8")
    vpc = aws.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    name = {"GroupName": "third", "Description": "third"}
    foreign = aws.ec2.create_security_group(**name, VpcId=vpc)["GroupId"]
    aws.ec2.create_security_group(**name)
    refusals = iter(range(2))

    def refuse_twice(arguments: Sequence[str], cwd: Path, region: str) -> str:
        if arguments[1] == "delete-security-group" and next(refusals, None) is not None:
            raise ClientError({"Error": {"Code": "DependencyViolation"}}, "DeleteSecurityGroup")
        return run_aws(arguments, cwd, region)

    monkeypatch.setattr(aws_cli, "run", refuse_twice)
    sleep = aws.home / "bin/sleep"
    sleep.write_text("#!/bin/sh\n", encoding="utf-8")
    sleep.chmod(0o755)
    aws.set(CLUSTER_NAME="third")
    done = aws.run("teardown.sh")
    aws.set(CLUSTER_NAME="mnist-ocr")
    (aws.cluster / "rendered.yaml").write_text(kept, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    named = [{"Name": "group-name", "Values": ["third"]}]
    found = aws.ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    assert [group["GroupId"] for group in found] == [foreign]
    aws.ec2.delete_security_group(GroupId=foreign)
    aws.ec2.delete_vpc(VpcId=vpc)


def test_readme_makes_and_removes_the_pods_role(aws: Account) -> None:
    """On EKS two service accounts may use it, with storage.json's rights, and nobody else."""
    readme = (ROOT / "cluster/kuberay/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?s)```bash\n(.*?)```", readme)
    script = aws.cluster / "role.sh"
    script.touch(mode=0o755)

    def run(commands: str) -> None:
        script.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{commands}", encoding="utf-8")
        done = aws.run("role.sh")
        assert done.returncode == 0, done.stderr

    eks = boto3.client("eks", aws.region)
    role = f"arn:aws:iam::{ACCOUNT}:role/eks"
    cluster = eks.create_cluster(name="my-cluster", roleArn=role, resourcesVpcConfig={})["cluster"]
    run(next(block for block in blocks if "create-role" in block))
    provider = cluster["identity"]["oidc"]["issuer"].removeprefix("https://")
    made = boto3.client("iam").get_role(RoleName="mnist-ocr")["Role"]
    assert made["Arn"].endswith(read_settings()["ROLE_ARN"].partition(":role")[2])
    (trust,) = made["AssumeRolePolicyDocument"]["Statement"]
    principal = {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{provider}"}
    assert trust.pop("Principal") == principal

    def may_use(account: str, audience: str = "sts.amazonaws.com") -> bool:
        subject = f"system:serviceaccount:{account}"
        token = {f"{provider}:sub": subject, f"{provider}:aud": audience}
        access = Access("sts:AssumeRoleWithWebIdentity", "*", token)
        return is_allowed([{"Statement": [{**trust, "Resource": "*"}]}], access)

    for each in documents("label"):
        if each["kind"] == "ServiceAccount":
            assert may_use(f"{each['metadata']['namespace']}:{each['metadata']['name']}")
    assert not may_use("mnist-ocr:default")
    assert not may_use("default:worker")
    assert not may_use("mnist-ocr:worker", "other.example.com")
    (storage,) = aws.read_policies("mnist-ocr")
    assert is_allowed([storage], Access("s3:GetObject", "arn:aws:s3:::my-bucket/scans/1.png"))
    assert not is_allowed([storage], Access("s3:PutObject", "arn:aws:s3:::my-bucket/scans/1.png"))

    run("".join(re.findall(r"(?m)^aws iam delete-.*\n", readme)))
    assert "mnist-ocr" not in describe(aws)["policies"]
    script.unlink()


@pytest.mark.parametrize("script", sorted((ROOT / "cluster").rglob("*.sh")), ids=lambda p: p.name)
def test_scripts_are_clean(script: Path) -> None:
    """ShellCheck finds nothing, and every script stops at the first error."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "-x", script], stdout=subprocess.PIPE, text=True)
    assert done.stdout == ""
    text = script.read_text(encoding="utf-8")
    assert "\nset -euo pipefail\n" in text or script.name == "settings.sh"


def test_render_names_what_is_missing() -> None:
    """A name without a value is an error, not an empty place in a policy."""
    done = subprocess.run(
        [sys.executable, ROOT / "cluster/render.py", ROOT / "cluster/iam/storage.json"],
        env={"BUCKET": "scans", "INPUT_PREFIX": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "needs INPUT_PREFIX, MODELS_PREFIX, OUTPUT_PREFIX" in done.stderr
