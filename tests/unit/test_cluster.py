"""`cluster/aws.yaml`, launched by Ray's own code on a simulated EC2, and `cluster/README.md`."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws

ROOT = Path(__file__).parents[2]
README = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
REGION = "us-west-2"


def ray_launcher() -> SimpleNamespace:
    """What `ray up` is made of. Ray keeps it private: this was tried with the pinned 2.60 only."""
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.util import prepare_config, validate_config

    return SimpleNamespace(
        prepare_config=prepare_config,
        validate_config=validate_config,
        node_provider=node_provider,
        NodeProvider=node_provider.AWSNodeProvider,
    )


def read_config(**values: str) -> dict[str, Any]:
    """The file, with its marked values edited as a person would."""
    text = (ROOT / "cluster/aws.yaml").read_text(encoding="utf-8")
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^(  {name}: &{name}) \S+$", rf"\1 {value}", text)
        assert count == 1, name
    config: dict[str, Any] = yaml.safe_load(text)
    return config


class Cluster(NamedTuple):
    """A node of each type, by its type's name: as EC2 describes it, and what Ray expects of it."""

    instances: dict[str, dict[str, Any]]
    disks: dict[str, dict[str, Any]]
    resources: dict[str, dict[str, int]]
    calls: set[str]


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A simulated AWS account, and a home folder for the key pair that Ray creates."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        for node in ("head", "worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=f"mnist-ocr-{node}")
        yield boto3.client("ec2", REGION)


@pytest.fixture(scope="module")
def security_group(ec2: Any) -> str:
    """The group that the README creates."""
    return str(ec2.create_security_group(GroupName="mnist-ocr", Description="-")["GroupId"])


@pytest.fixture(scope="module")
def cluster(ec2: Any, security_group: str) -> Cluster:
    """What `ray up` and the autoscaler start, told to be one node of each type."""
    ray = ray_launcher()
    ami = ec2.describe_images()["Images"][0]["ImageId"]
    config = ray.prepare_config(read_config(region=REGION, ami=ami, security_group=security_group))
    types = [
        node["node_config"]["InstanceType"] for node in config["available_node_types"].values()
    ]
    listed = ec2.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
    with pytest.MonkeyPatch.context() as patch:  # else Ray lists all of EC2's types: two seconds
        patch.setattr(ray.node_provider, "list_ec2_instances", lambda *_: listed)
        config = ray.NodeProvider.fillout_available_node_types_resources(config)
    config = ray.NodeProvider.bootstrap_config(config)
    node_types = config["available_node_types"]
    provider = ray.NodeProvider(config["provider"], config["cluster_name"])
    calls = record_calls(provider)
    ids = {
        name: next(iter(provider.create_node(node_type["node_config"], {"type": name}, 1)))
        for name, node_type in node_types.items()
    }
    provider.non_terminated_nodes({})
    provider._create_tags({("status", "up-to-date"): list(ids.values())})
    reservations = ec2.describe_instances(InstanceIds=list(ids.values()))["Reservations"]
    described = {i["InstanceId"]: i for r in reservations for i in r["Instances"]}
    volumes = {v["Attachments"][0]["InstanceId"]: v for v in ec2.describe_volumes()["Volumes"]}
    provider.terminate_nodes(list(ids.values()))
    return Cluster(
        {name: described[instance_id] for name, instance_id in ids.items()},
        {name: volumes[instance_id] for name, instance_id in ids.items()},
        {name: node_type["resources"] for name, node_type in node_types.items()},
        calls,
    )


def record_calls(provider: Any) -> set[str]:
    """The IAM names of the EC2 calls that Ray's node provider makes from now on."""
    calls: set[str] = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register(
            "before-call.ec2", lambda model, **_: calls.add(f"ec2:{model.name}")
        )
    return calls


def test_the_schema_knows_every_key() -> None:
    """Ray's validator accepts the file, and refuses it with a key that is not Ray's."""
    ray = ray_launcher()
    config = ray.prepare_config(read_config())
    ray.validate_config(config)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        ray.validate_config({**config, "max_worker": 1})
    config["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        ray.validate_config(config)


def test_the_unedited_file_starts_nothing(ec2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With its placeholders, `ray up` stops before it creates an instance or a firewall."""

    def existing() -> tuple[Any, Any]:
        groups = ec2.describe_security_groups()["SecurityGroups"]
        return groups, ec2.describe_instances()["Reservations"]

    ray = ray_launcher()
    before = existing()
    with pytest.raises(AssertionError):
        ray.NodeProvider.bootstrap_config(ray.prepare_config(read_config()))
    assert "SecurityGroupIds" in capsys.readouterr().err
    assert existing() == before


@pytest.mark.parametrize(
    ("node", "instance_type", "lifecycle", "profile"),
    [
        ("head", "m7i.large", None, "mnist-ocr-head"),
        ("gpu", "g6.xlarge", "spot", "mnist-ocr-worker"),
        ("cpu", "c7i.2xlarge", "spot", "mnist-ocr-worker"),
    ],
)
def test_nodes(
    cluster: Cluster, node: str, instance_type: str, lifecycle: str | None, profile: str
) -> None:
    """The head is on demand, workers are spot; all have a role, IMDSv2 and an encrypted disk."""
    instance = cluster.instances[node]
    assert instance["InstanceType"] == instance_type
    assert instance.get("InstanceLifecycle") == lifecycle
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert cluster.disks[node]["Encrypted"]
    assert [disk["Ebs"]["DeleteOnTermination"] for disk in instance["BlockDeviceMappings"]] == [
        True
    ]


def test_no_firewall_but_the_given_one(cluster: Cluster, ec2: Any, security_group: str) -> None:
    """Ray neither makes a group of its own, which would open SSH to all, nor opens the given."""
    for instance in cluster.instances.values():
        assert [group["GroupId"] for group in instance["SecurityGroups"]] == [security_group]
    groups = ec2.describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "mnist-ocr"}
    assert not any(group["IpPermissions"] for group in groups)


def test_work_goes_to_workers(cluster: Cluster) -> None:
    """The head offers no CPU, a GPU worker one GPU; what is up and may come up is bounded."""
    assert cluster.resources["head"] == {"CPU": 0}
    assert cluster.resources["gpu"]["GPU"] == 1
    assert cluster.resources["cpu"]["CPU"] == 8
    config = ray_launcher().prepare_config(read_config())
    bounds = {
        name: (node["min_workers"], node["max_workers"])
        for name, node in config["available_node_types"].items()
    }
    assert bounds == {"head": (0, 0), "gpu": (4, 4), "cpu": (0, 4)}
    assert config["max_workers"] == 8
    assert config["idle_timeout_minutes"] == 10


def test_what_is_copied_exists() -> None:
    """Every file mount is a path of the repository under ~/mnist-ocr, or the user's token."""
    mounts = read_config()["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert {"jobs", "mnist_ocr", "pyproject.toml", "constraints.txt"} <= set(mounts.values())
    for remote, local in mounts.items():
        assert remote == f"~/mnist-ocr/{local}"
        assert (ROOT / local).exists(), local


def test_the_head_starts_beside_jobs_and_serves_loopback_only() -> None:
    """The bare `ray job submit` finds jobs/, and the dashboard needs the tunnel."""
    start = read_config()["head_start_ray_commands"][-1]
    assert "cd ~/mnist-ocr && ray start --head" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_every_command_on_a_node_sees_the_token_mode(tmp_path: Path) -> None:
    """The set-up line, run twice, writes ~/.bashrc once: token mode, region and PATH."""
    fake = tmp_path / "cloud-init"
    fake.write_text("#!/bin/sh\n[ \"$*\" = 'query region' ] && echo eu-west-1\n", encoding="utf-8")
    fake.chmod(0o755)
    bashrc = tmp_path / ".bashrc"
    bashrc.touch()
    line = read_config()["setup_commands"][-1]
    shown = subprocess.run(
        [
            "bash",
            "-ec",
            f"{line}\n{line}\n. ~/.bashrc\necho $RAY_AUTH_MODE $AWS_DEFAULT_REGION $PATH",
        ],
        env={"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith(f"token eu-west-1 {tmp_path}/venv/bin:{tmp_path}:")
    assert len(bashrc.read_text(encoding="utf-8").splitlines()) == 1


def test_policies_allow_what_ray_calls_and_no_more(cluster: Cluster) -> None:
    """The README's policies name every action; the EC2 ones are the calls that Ray makes."""
    policies = [json.loads(text) for text in re.findall(r"(?s)<<EOF\n(.*?)\nEOF\n", README)]
    assert len(policies) == 2
    allowed: set[str] = set()
    for statement in (s for policy in policies for s in policy["Statement"]):
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
        if statement["Resource"] == "*":
            assert actions == "ec2:DescribeInstances"  # EC2 defines no narrower resource for it
    assert not any("*" in action for action in allowed)
    assert {action for action in allowed if action.startswith("ec2:")} == cluster.calls


def test_readme_commands_parse() -> None:
    """Each block of commands is valid bash."""
    blocks = re.findall(r"(?s)```bash\n(.*?)```", README)
    assert len(blocks) == 4
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
