#!/usr/bin/env python3
"""Drain this machine's Ray node when EC2 says that it takes the spot instance back.

    nohup python ~/mnist-ocr/cluster/spot_watcher.py > ~/spot_watcher.log 2>&1 &

EC2 tells an instance two minutes ahead, by a document of its metadata service (IMDSv2). `ray
drain-node` passes that on: nothing new is started on the node, and Ray knows until when what runs
there can go on. Needs the standard library and the `ray` command; runs on every spot worker, in the
environment of its `ray start` (RAY_AUTH_MODE, HOME), before or after it.

Where no metadata service answers, which is everywhere but on EC2, it says so once and keeps asking:
on EC2 that is an outage that ends. AWS_EC2_METADATA_SERVICE_ENDPOINT puts another address in
place of http://169.254.169.254, as for AWS's own programs.

Exit code 0 once the node is drained; 1 if that has not succeeded by the time the instance goes.

Documents: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import argparse
import http.client
import json
import logging
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import gmtime, monotonic, sleep, time
from typing import Any

logger = logging.getLogger("spot_watcher")

ENDPOINT = "http://169.254.169.254"
TOKEN = "/latest/api/token"
NOTICE = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"

POLL_S = 2.0
MAX_POLL_S = 16.0
"""Seconds between two questions while the service does not answer: less than a notice leaves."""
TIMEOUT_S = 2.0
"""Of a request; the service is on the same machine."""
TOKEN_TTL_S = 6 * 3600

DRAIN_TIMEOUT_S = 60.0
"""Of `ray drain-node`, most of which is the import of Ray: seconds on a busy machine."""
MARGIN_S = 5.0
"""How much earlier than EC2's the deadline is that Ray is told: it counts from the end of that
import, and workers that it ends itself are not mistaken for failures."""
RETRY_S = 1.0


class MetadataService:
    """What EC2 tells an instance about itself."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        # never by a proxy of the environment: it would tell of its own machine
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token, self._renew_after = "", 0.0

    def read(self, path: str) -> dict[str, Any] | None:
        """A JSON document; None if there is none.

        Raises:
            OSError, http.client.HTTPException: No answer, or another status than 200 and 404.
            ValueError: The answer is not JSON.
        """
        if monotonic() >= self._renew_after:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            self._token = self._request("PUT", TOKEN, headers)
            self._renew_after = monotonic() + TOKEN_TTL_S / 2
        try:
            text = self._request("GET", path, {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            if error.code == 401:  # the token is no longer good, after hibernation for one
                self._renew_after = 0.0
            raise
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"{path} is not a JSON object")
        return document

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._endpoint + path, method=method, headers=headers)
        with self._opener.open(request, timeout=TIMEOUT_S) as response:
            text: str = response.read(65_536).decode()
            return text


def wait_for_notice(service: MetadataService) -> tuple[str, float]:
    """Ask until there is a notice.

    Returns:
        What will be done to the instance (terminate, stop or hibernate) and when, in Unix time.
    """
    pause, is_told = POLL_S, False
    while True:
        try:
            if notice := service.read(NOTICE):
                when = datetime.fromisoformat(notice["time"]).timestamp()
                return notice["action"], when
            if not is_told and (recommendation := service.read(REBALANCE)):
                is_told = True
                logger.info(
                    "EC2 recommends to rebalance: an interruption is more likely since %s",
                    recommendation.get("noticeTime"),
                )
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            if pause == POLL_S:
                logger.warning(
                    "the metadata service gives no answer (%s); asking on. Not on EC2?", error
                )
            pause = min(2 * pause, MAX_POLL_S)
        else:
            if pause > POLL_S:
                logger.info("the metadata service answers again")
            pause = POLL_S
        sleep(pause)


def find_ray_nodes(processes: Path = Path("/proc")) -> dict[str, str]:
    """The ids of this machine's Ray nodes, each with the address of its cluster's head.

    They are in the command lines of the raylets, where Ray's own drivers look for them, too. Ray's
    API would tell as well, to a process that joins the cluster; its HTTP API listens on the head's
    loopback interface only.
    """
    nodes = {}
    for path in processes.glob("[0-9]*/cmdline"):
        with suppress(OSError, KeyError):  # it has ended, or is none
            program, *arguments = path.read_bytes().decode(errors="replace").split("\0")
            if Path(program).name == "raylet":
                flags = dict(each.split("=", 1) for each in arguments if "=" in each)
                nodes[flags["--node_id"]] = flags["--gcs-address"]
    return nodes


def drain_node(node_id: str, address: str, message: str, remaining_s: int) -> bool:
    """Run `ray drain-node`; returns whether Ray has accepted, and logs why if not."""
    # the `ray` beside this Python comes first: nohup's PATH may lack the environment
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [shutil.which("ray", path=folders) or "ray", "drain-node"]
    command += ["--address", address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", message]
    command += ["--deadline-remaining-seconds", str(remaining_s)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DRAIN_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.error("ray drain-node failed: %s", error)
        return False
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["it said nothing"]
        logger.error("ray drain-node exited with %d: %s", done.returncode, lines[-1])
    return done.returncode == 0


def drain_machine(action: str, when: float, only: str | None) -> bool:
    """Drain this machine's Ray nodes, each once; returns whether that succeeded in time.

    Args:
        action: What will be done to the instance.
        when: The Unix time at which it will be.
        only: The one node to drain; None for all, since all go with the machine.
    """
    logger.warning("EC2 will %s this instance in %.0f s", action, when - time())
    message = f"EC2 spot interruption: {action}"
    drained: set[str] = set()
    while True:
        nodes = find_ray_nodes()
        if only:
            nodes = {node_id: head for node_id, head in nodes.items() if node_id == only}
        for node_id in nodes.keys() - drained:
            remaining_s = max(0, int(when - MARGIN_S - time()))
            if drain_node(node_id, nodes[node_id], message, remaining_s):
                drained.add(node_id)
                logger.warning("drained node %s, %.0f s before the end", node_id, when - time())
        if nodes and nodes.keys() <= drained:
            return True
        if time() >= when:
            logger.error("not drained: %s", "no Ray node runs here" if not nodes else "see above")
            return False
        sleep(RETRY_S)


def main() -> int:
    """Wait for a notice, pass it on, and end."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node-id", help="drain this one of several Ray nodes on the machine")
    arguments = parser.parse_args()
    line = "%(asctime)sZ %(levelname)s spot_watcher: %(message)s"
    formatter = logging.Formatter(line, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT
    logger.info("asking %s every %g s", endpoint, POLL_S)
    action, when = wait_for_notice(MetadataService(endpoint))
    return 0 if drain_machine(action, when, arguments.node_id) else 1


if __name__ == "__main__":
    sys.exit(main())
