"""The cluster's S3 policy, enforced: the whole life of a model and of an output under it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from iam import Access, access_of_s3, actions_of, is_allowed
from proxies import Answer, proxy
from services import S3Server

ROOT = Path(__file__).parents[2]
FORBIDDEN = Answer(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
SETTINGS = {
    "BUCKET": "corp",
    "INPUT_PREFIX": "scans",
    "OUTPUT_PREFIX": "labels",
    "MODELS_PREFIX": "models",
}

RUN = """
import json, sys
from mnist_ocr.cli import main
for line in json.load(sys.stdin):
    try:
        main(line)
    except SystemExit as error:
        assert error.code in (None, 0), (line, error.code)
"""
"""Several commands in one process, so that Ray is joined once."""


def read_policy() -> dict[str, Any]:
    """`cluster/iam/storage.json`, as setup.sh fills it in."""
    command = [sys.executable, ROOT / "cluster/render.py", ROOT / "cluster/iam/storage.json"]
    filled = subprocess.run(command, env=SETTINGS, check=True, stdout=subprocess.PIPE)
    policy: dict[str, Any] = json.loads(filled.stdout)
    return policy


def run_all(endpoint: str, *lines: list[str]) -> subprocess.CompletedProcess[str]:
    """Run commands on the shared cluster, their workers with a store of their own, too."""
    job = {"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": endpoint}}}
    variables = {"AWS_ENDPOINT_URL": endpoint, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(lines),
        env=os.environ | variables,
        text=True,
        capture_output=True,
    )


@pytest.mark.usefixtures("ray_session")
def test_a_job_needs_what_the_policy_allows(
    rclone_server: S3Server, digit_images: np.ndarray
) -> None:
    """Train, label, update, retry, pack, prune, verify: not one request is refused.

    And of what is allowed, all is used, but for the end of an upload in parts that fails.
    """
    policy, asked, refused = read_policy(), set[str](), list[Access]()

    def enforce(method: str, path: str, body: bytes) -> Answer | None:
        needed = access_of_s3(method, path, body)
        asked.update(access.action for access in needed)
        forbidden = [access for access in needed if not is_allowed([policy], access)]
        refused.extend(forbidden)
        return FORBIDDEN if forbidden else None

    client = rclone_server.client()
    client.create_bucket(Bucket="corp")

    def put(name: str, image: np.ndarray) -> None:
        content = cv2.imencode(".png", image)[1].tobytes()
        client.put_object(Bucket="corp", Key=f"scans/{name}.png", Body=content)

    for i, image in enumerate(digit_images[:40]):
        put(str(i), image)
    model, source, labels = "s3://corp/models/mlp", "s3://corp/scans/", "s3://corp/labels/a"
    train = ["train", "--dataset", "digits", "--recipe", "mlp-128", "--num-epochs", "1"]
    label = ["label", source, labels, "--model-uri", model, "--num-gpus-per-actor", "0"]
    with proxy(rclone_server, judge=enforce) as endpoint:
        first = run_all(endpoint, [*train, "--model-uri", model], label)
        assert (first.returncode, refused) == (0, []), first.stderr
        put("new", digit_images[50])
        then = run_all(
            endpoint,
            [*label, "--update"],
            ["retry", labels, "--status", "ok", *label[3:]],
            ["pack", source, "s3://corp/labels/packed"],
            ["prune", labels],
            ["verify", labels],
        )
        assert (then.returncode, refused) == (0, []), then.stderr
        assert actions_of([policy]) - asked == {"s3:AbortMultipartUpload"}
        elsewhere = run_all(endpoint, ["label", source, "s3://corp/elsewhere", *label[3:]])
    assert elsewhere.returncode == 1
    assert refused
