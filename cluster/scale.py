"""Ask Ray's autoscaler for workers and wait until they are there; run it on the cluster.

    ray job submit -- python cluster/scale.py 4 --cpus 32   # 4 GPUs, and 32 CPUs in all
    ray job submit -- python cluster/scale.py 0             # let go: idle workers end

Jobs use the workers that are up when they start. What is asked for stays until it is asked for
anew: it is started again where EC2 takes a spot instance back, and is paid for while idle.
"""

import argparse
import sys
import time

import ray
from ray.autoscaler.sdk import request_resources

POLL_S = 2.0


def wait_for(wanted: dict[str, int], timeout_s: float) -> bool:
    """Say how many there are, whenever that changes, until all are there; False if too late."""
    deadline, last = time.monotonic() + timeout_s, ""
    while True:
        found = ray.cluster_resources()
        progress = ", ".join(f"{int(found.get(k, 0))}/{n} {k}s" for k, n in wanted.items())
        if progress != last:
            print(progress, flush=True)
            last = progress
        if all(found.get(kind, 0) >= number for kind, number in wanted.items()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def main() -> None:
    """Exit with 1 if the workers are not there in time; they are still asked for then."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("gpus", type=int, help="GPUs in all; 0 for none")
    parser.add_argument("--cpus", type=int, default=0, help="CPUs in all, those beside GPUs too")
    parser.add_argument("--timeout-s", type=float, default=1800, help="how long to wait")
    arguments = parser.parse_args()
    wanted = {"GPU": arguments.gpus, "CPU": arguments.cpus}
    wanted = {kind: number for kind, number in wanted.items() if number}
    ray.init("auto", log_to_driver=False, logging_level="ERROR")
    request_resources(bundles=[{kind: 1} for kind, number in wanted.items() for _ in range(number)])
    if not wanted:
        print("Nothing is asked for any more: workers end when they have been idle for a while.")
    elif not wait_for(wanted, arguments.timeout_s):
        sys.exit(
            f"error: not there after {arguments.timeout_s:g} s. `ray status` and monitor.log in "
            "/tmp/ray/session_latest/logs, on the head, say why: quota, spot capacity, max_workers."
        )


if __name__ == "__main__":
    main()
