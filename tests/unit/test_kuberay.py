"""The nodes and jobs of cluster/kuberay: confined, bounded, and all names exist."""

import os
import re
import string
import subprocess
import threading
from pathlib import Path

import pytest
from manifests import FOLDERS, containers, documents, find, pod_templates, ray_spec, read_settings

from mnist_ocr import cli

ROOT = Path(__file__).parents[2]


def test_pod_monitor_scrapes_rays_metrics_port() -> None:
    """Its definition is not at hand: these are all of its fields, and the port is the pods'."""
    assert find("monitoring", "PodMonitor")["spec"] == {
        "selector": find("monitoring", "NetworkPolicy")["spec"]["podSelector"],
        "podMetricsEndpoints": [
            {"port": "metrics", "relabelings": [{"targetLabel": "job", "replacement": "ray"}]}
        ],
    }
    for path, template in pod_templates("label"):
        if "submitter" not in path:
            ports = template["spec"]["containers"][0]["ports"]
            assert {"name": "metrics", "containerPort": 8080} in ports


def test_a_spot_node_can_be_drained() -> None:
    """Karpenter may not move the head; a worker whose node goes it has to let go of."""
    for path, template in pod_templates("label"):
        if "submitter" not in path:
            is_head = template["metadata"]["labels"]["app.kubernetes.io/component"] == "head"
            held = template["metadata"]["annotations"].get("karpenter.sh/do-not-disrupt")
            assert (held == "true") == is_head


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_exists(folder: str) -> None:
    """Service accounts, config maps, volumes and namespaces; and no image is left open."""
    existing = {(each["kind"], each["metadata"]["name"]) for each in documents(folder)}
    assert ("Namespace", "mnist-ocr") in existing or folder == "monitoring"
    for document in documents(folder):
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "mnist-ocr"
    for path, template in pod_templates(folder):
        spec = template["spec"]
        if "submitter" not in path:
            assert ("ServiceAccount", spec["serviceAccountName"]) in existing
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            (source,) = container["envFrom"]
            assert ("ConfigMap", source["configMapRef"]["name"]) in existing
    settings = read_settings()
    for path, container in containers(folder):
        if path != "autoscaler":  # which has the head's image and volumes
            wanted = "GPU_IMAGE" if "nvidia.com/gpu" in container["resources"]["limits"] else None
            assert container["image"] == settings[wanted or "CPU_IMAGE"]
    for document in documents(folder):
        if document["kind"] == "ServiceAccount":
            annotations = document["metadata"]["annotations"]
            assert annotations == {"eks.amazonaws.com/role-arn": settings["ROLE_ARN"]}


@pytest.mark.parametrize("folder", FOLDERS)
def test_containers_are_confined(folder: str) -> None:
    """No root, no capability, no writable root file system, no host; and a limit on everything."""
    for path, template in pod_templates(folder):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, path
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])
        # only the head's autoscaler talks to Kubernetes
        assert spec.get("automountServiceAccountToken", True) == ("headGroupSpec" in path)
    for path, container in containers(folder):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }, path
        resources = container["resources"]
        for kind in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources[kind]), path
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


@pytest.mark.parametrize("folder", ["cluster", "train", "label"])
def test_nodes(folder: str) -> None:
    """A head without work and on demand, a GPU per GPU worker, bounds, a token."""
    spec = ray_spec(folder)
    assert spec == ray_spec("label")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 300
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    (term,) = head["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}

    gpu, cpu = spec["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["replicas"], gpu["maxReplicas"]) == (2, 2, 4)
    assert (cpu["minReplicas"], cpu["replicas"], cpu["maxReplicas"]) == (0, 0, 8)
    for group in (gpu, cpu):
        template = group["template"]["spec"]
        (container,) = template["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group is gpu)
        # what the hook waits for ends before the pod is killed
        hook = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        seconds = [int(each) for each in re.findall(r"timeout (\d+)", hook)]
        assert sum(seconds) < template["terminationGracePeriodSeconds"] < 120
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert any(each["key"] == "nvidia.com/gpu" for each in gpu["template"]["spec"]["tolerations"])


def test_a_pod_is_drained_before_it_stops(tmp_path: Path) -> None:
    """The hook finds its node's id, drains that node, and waits until its raylet has ended."""
    gpu, _ = ray_spec("label")["workerGroupSpecs"]
    (container,) = gpu["template"]["spec"]["containers"]
    *shell, hook = container["lifecycle"]["preStop"]["exec"]["command"]
    fake = tmp_path / "ray"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n', encoding="utf-8")
    fake.chmod(0o755)
    with subprocess.Popen(["sleep", "0.3"]) as raylet:
        for number, line in ((1, "bash\0-c\0true\0"), (raylet.pid, "raylet\0--node_id=a1b2\0")):
            process = tmp_path / f"proc/{number}"
            process.mkdir(parents=True)
            (process / "cmdline").write_text(line, encoding="utf-8")
        threading.Thread(target=raylet.wait).start()  # else it stays as a zombie
        drained = subprocess.run(
            [
                *shell,
                hook.replace("/proc/[0-9]*", f"{tmp_path}/proc/[0-9]*").replace(
                    "#/proc/", f"#{tmp_path}/proc/"
                ),
            ],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert raylet.poll() == 0
    assert drained.returncode == 0
    assert drained.stdout.startswith("drain-node --node-id a1b2 --reason DRAIN_NODE_REASON_PREEM")


def test_labelling_without_gpus() -> None:
    """The same job on CPU workers alone, of which some are there from the start."""
    with_gpus, without = ray_spec("label"), ray_spec("label-on-cpus")
    (cpu,) = without["workerGroupSpecs"]
    assert (cpu["groupName"], cpu["replicas"], cpu["minReplicas"]) == ("cpu", 4, 4)
    assert without["headGroupSpec"] == with_gpus["headGroupSpec"]


def test_ray_is_the_pinned_one() -> None:
    """KubeRay is told the version that the image installs."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={ray_spec('label')['rayVersion']}" in pins


@pytest.mark.parametrize("folder", ["train", "label", "label-on-cpus", "verify"])
def test_commands_parse(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the jobs run are commands of this package, with the settings in place of variables."""
    if folder == "verify":
        container = find(folder, "Job")["spec"]["template"]["spec"]["containers"][0]
        words = [re.sub(r"\$\((\w+)\)", r"$\1", word) for word in container["args"]]
        assert words.pop(0) == "mnist-ocr"
    else:
        python, script, *words = find(folder, "RayJob")["spec"]["entrypoint"].split()
        assert python == "python"
        assert (ROOT / script).is_file()
        words.insert(0, Path(script).stem)
    words = [string.Template(word).substitute(read_settings()) for word in words]

    ran = []
    for name, (config_class, _) in list(cli.COMMANDS.items()):
        monkeypatch.setitem(cli.COMMANDS, name, (config_class, lambda c: ran.append(c) or 0))
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    (config,) = ran
    if folder == "train":
        gpu, _ = ray_spec("train")["workerGroupSpecs"]
        assert (config.use_gpu, config.num_workers) == (True, gpu["replicas"])


@pytest.mark.parametrize("folder", ["train", "label"])
def test_jobs_end(folder: str) -> None:
    """A job's cluster goes with it; a job that hangs ends all the same, in a day with retries."""
    spec = find(folder, "RayJob")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] <= 600
    # KubeRay counts the seconds of each attempt anew
    attempts = spec["backoffLimit"] + 1
    assert 0 < attempts * spec["activeDeadlineSeconds"] <= {"train": 14400, "label": 86400}[folder]
