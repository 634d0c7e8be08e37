"""A simulated AWS account, the cluster's scripts run in it, and Ray's launcher."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import boto3
import pytest
import yaml
from aws_cli import aws_command
from iam import Access, access_of_ec2
from moto import mock_aws

ROOT = Path(__file__).parents[1]
REGION, ACCOUNT = "us-west-2", "123456789012"


@dataclass(frozen=True)
class Account:
    """An account, and a copy of cluster/ for it."""

    home: Path
    cluster: Path
    region: str = REGION

    @property
    def ec2(self) -> Any:
        """A client of EC2."""
        return boto3.client("ec2", self.region)

    def set(self, **settings: str) -> None:
        """Edit settings.sh as a person would."""
        path = self.cluster / "settings.sh"
        text = path.read_text(encoding="utf-8")
        for name, value in settings.items():
            text, count = re.subn(rf"(?m)^export {name}=.*$", f"export {name}={value}", text)
            assert count == 1, name
        path.write_text(text, encoding="utf-8")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of cluster/ from another folder."""
        environment = {"HOME": str(self.home), "PATH": path_with(self.home / "bin")}
        return subprocess.run(
            [str(self.cluster / script)],
            cwd=self.home,
            env=environment,
            text=True,
            capture_output=True,
        )

    def read_config(self) -> dict[str, Any]:
        """What setup.sh has written for `ray up`."""
        config: dict[str, Any] = yaml.safe_load((self.cluster / "rendered.yaml").read_text())
        return config

    def read_policies(self, role: str) -> list[dict[str, Any]]:
        """The documents that a role has."""
        client = boto3.client("iam")
        return [
            client.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
            for name in client.list_role_policies(RoleName=role)["PolicyNames"]
        ]


def path_with(folder: Path) -> str:
    """A PATH that finds a folder's commands, then this environment's."""
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


@contextmanager
def aws_account(folder: Path) -> Iterator[Account]:
    """An account with a bucket and what AWS creates by itself, until the block ends."""
    (folder / "bin").mkdir()
    shutil.copytree(ROOT / "cluster", folder / "cluster")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(folder))
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        place = {"LocationConstraint": REGION}
        boto3.client("s3", REGION).create_bucket(Bucket="scans", CreateBucketConfiguration=place)
        account = Account(folder, folder / "cluster")
        image = account.ec2.describe_images()["Images"][0]["ImageId"]
        account.set(BUCKET="scans", SSH_CIDR="203.0.113.7/32", AMI=image)
        with aws_command(folder / "bin", REGION):
            yield account


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An account in which setup.sh has been run."""
    with aws_account(tmp_path_factory.mktemp("aws")) as account:
        done = account.run("setup.sh")
        assert done.returncode == 0, done.stderr
        yield account


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


class Request(NamedTuple):
    """What Ray asked of EC2, for a type of node, and what of IAM that needs."""

    node: str
    operation: str
    parameters: Mapping[str, Any]
    access: Sequence[Access]


class Nodes(NamedTuple):
    """A node of each type, by its type's name: as EC2 describes it, and what Ray expects of it."""

    instances: dict[str, dict[str, Any]]
    disks: dict[str, dict[str, Any]]
    resources: dict[str, dict[str, int]]
    requests: list[Request]


def launch_nodes(account: Account) -> Nodes:
    """What `ray up` and the autoscaler do, told to start and end one node of each type."""
    ray, ec2 = ray_launcher(), account.ec2
    config = ray.prepare_config(account.read_config())
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
    requests: list[Request] = []
    nodes = Nodes({}, {}, {name: node["resources"] for name, node in node_types.items()}, requests)
    for name, node_type in node_types.items():
        with recorded(provider, name, requests):
            (instance,) = provider.create_node(node_type["node_config"], {"type": name}, 1)
            provider.non_terminated_nodes({})
            provider._create_tags({("status", "up-to-date"): [instance]})
            (found,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
            (nodes.instances[name],) = found["Instances"]
            attached = [{"Name": "attachment.instance-id", "Values": [instance]}]
            (nodes.disks[name],) = ec2.describe_volumes(Filters=attached)["Volumes"]
            provider.terminate_nodes([instance])
    return nodes


@contextmanager
def recorded(provider: Any, node: str, requests: list[Request]) -> Iterator[None]:
    """Note what Ray's node provider asks of EC2 until the block ends."""
    event = "before-parameter-build.ec2"
    clients = [resource.meta.client for resource in (provider.ec2, provider.ec2_fail_fast)]

    def note(params: dict[str, Any], model: Any, **_: object) -> None:
        name = {"ray-cluster-name": provider.cluster_name}  # as `describe_instances` would say
        ids = [*params.get("InstanceIds", ()), *params.get("Resources", ())]
        access = access_of_ec2(model.name, params, f"{REGION}:{ACCOUNT}", dict.fromkeys(ids, name))
        requests.append(Request(node, model.name, dict(params), access))

    for client in clients:
        client.meta.events.register(event, note)
    yield
    for client in clients:
        client.meta.events.unregister(event, note)
