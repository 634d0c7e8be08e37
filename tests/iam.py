"""What IAM would say: policies, evaluated against requests.

By the rules of AWS's user guide ("Policy evaluation logic"), for identity policies of one account:
no unless a statement allows it, and no if one denies it. A condition on a key that a request does
not have does not hold.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

Policy = Mapping[str, Any]


class Access(NamedTuple):
    """One thing that a request needs to be allowed; a request may need several."""

    action: str
    resource: str
    context: Mapping[str, str] = {}


def is_allowed(policies: Iterable[Policy], access: Access) -> bool:
    """Whether all of it is."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in policy["Statement"]
        if _applies(statement, access)
    }
    return effects == {"Allow"}


def actions_of(policies: Iterable[Policy]) -> set[str]:
    """The actions that statements name."""
    statements = (statement for policy in policies for statement in policy["Statement"])
    return {action for statement in statements for action in _list(statement["Action"])}


def _applies(statement: Mapping[str, Any], access: Access) -> bool:
    if unknown := statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}:
        raise ValueError(f"not evaluated: {unknown}")
    return (
        any(
            _matches(action.lower(), access.action.lower()) for action in _list(statement["Action"])
        )
        and any(_matches(resource, access.resource) for resource in _list(statement["Resource"]))
        and all(
            _holds(operator, access.context.get(key), _list(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, found: str | None, values: Sequence[str]) -> bool:
    if found is None:
        return False
    if operator in {"StringEquals", "Bool"}:
        return found in values
    if operator in {"StringLike", "ArnLike", "ArnEquals"}:
        return any(_matches(value, found) for value in values)
    raise ValueError(f"not evaluated: {operator}")


def _matches(pattern: str, text: str) -> bool:
    parts = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def access_of_s3(method: str, path: str, body: bytes) -> list[Access]:
    """What a request to S3 needs, by its method, its path with the query, and its body.

    S3's user guide, "Required permissions for Amazon S3 API operations".

    Raises:
        ValueError: It is none of those that the program is known to make.
    """
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    if not key:
        if method == "GET" and "list-type" in query:
            return [Access("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
        if method == "POST" and "delete" in query:  # several at once
            keys = [node.text for node in ElementTree.fromstring(body).iter() if is_key(node.tag)]
            return [Access("s3:DeleteObject", f"arn:aws:s3:::{bucket}/{key}") for key in keys]
        raise ValueError(f"{method} {path}")
    action = {
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject",  # begins or completes an upload in parts
        "DELETE": "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject",
    }[method]
    return [Access(action, f"arn:aws:s3:::{bucket}/{key}")]


def is_key(tag: str) -> bool:
    """Whether an element is a key, in whatever namespace."""
    return tag.rpartition("}")[2] == "Key"


def access_of_ec2(
    operation: str, request: Mapping[str, Any], account: str, tags: Mapping[str, Mapping[str, str]]
) -> list[Access]:
    """What a request to EC2 needs, for the operations that Ray's autoscaler uses.

    "Actions, resources, and condition keys for Amazon EC2" (Service Authorization Reference).

    Args:
        operation: Its name, such as `RunInstances`.
        request: Its parameters.
        account: `REGION:NUMBER`.
        tags: Of the instances that there are, by their ids.
    """
    action = f"ec2:{operation}"
    if operation.startswith("Describe"):
        return [Access(action, "*")]
    arn = f"arn:aws:ec2:{account}"
    if operation == "RunInstances":
        return _access_of_launch(request, account.partition(":")[0], account.partition(":")[2])
    ids = request["InstanceIds"] if operation == "TerminateInstances" else request["Resources"]
    return [
        Access(
            action,
            f"{arn}:instance/{instance}",
            {f"aws:ResourceTag/{key}": value for key, value in tags.get(instance, {}).items()},
        )
        for instance in ids
    ]


def _access_of_launch(request: Mapping[str, Any], region: str, number: str) -> list[Access]:
    arn, run = f"arn:aws:ec2:{region}:{number}", "ec2:RunInstances"
    profile = request.get("IamInstanceProfile", {}).get("Name")
    tags = {
        f"aws:RequestTag/{tag['Key']}": tag["Value"]
        for specification in request.get("TagSpecifications", ())
        for tag in specification["Tags"]
    }
    instance = {
        **tags,
        "ec2:InstanceType": request["InstanceType"],
        "ec2:MetadataHttpTokens": request.get("MetadataOptions", {}).get("HttpTokens", "optional"),
        "ec2:InstanceProfile": f"arn:aws:iam::{number}:instance-profile/{profile}",
    }
    found = [
        Access(run, f"{arn}:instance/*", instance),
        Access(run, f"arn:aws:ec2:{region}::image/{request['ImageId']}"),
        Access(run, f"{arn}:key-pair/{request['KeyName']}"),
        Access(run, f"{arn}:subnet/{request['SubnetId']}"),
        Access(run, f"{arn}:network-interface/*"),
        *(Access(run, f"{arn}:security-group/{group}") for group in request["SecurityGroupIds"]),
        *(
            Access(run, f"{arn}:volume/*", {"ec2:Encrypted": str(disk["Ebs"]["Encrypted"]).lower()})
            for disk in request["BlockDeviceMappings"]
        ),
        Access("ec2:CreateTags", f"{arn}:instance/*", {**tags, "ec2:CreateAction": "RunInstances"}),
    ]
    if "InstanceMarketOptions" in request:
        found.append(Access(run, f"{arn}:spot-instances-request/*"))
    if profile:  # the tests' roles have the names of their profiles
        service = {"iam:PassedToService": "ec2.amazonaws.com"}
        found.append(Access("iam:PassRole", f"arn:aws:iam::{number}:role/{profile}", service))
    return found
