"""Who reaches whom under cluster/kuberay's network policies, by Kubernetes's own rules."""

import ipaddress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kustomization import Document, render

KUBERAY = Path(__file__).parents[2] / "cluster/kuberay"


class Peer(NamedTuple):
    """A pod, or an address outside the cluster."""

    component: str | None = None
    namespace: str = "mnist-ocr"
    labels: dict[str, str] = {}  # noqa: RUF012 - never written to
    address: str | None = None


HEAD, WORKER, SUBMITTER, VERIFY = map(Peer, ("head", "worker", "submitter", "verify"))
STRAY = Peer()  # in the namespace, but of something else
OPERATOR = Peer(namespace="kuberay-operator")
PROMETHEUS = Peer(namespace="monitoring")
ELSEWHERE = Peer(namespace="default")
DNS = Peer(namespace="kube-system", labels={"k8s-app": "kube-dns"})
S3 = Peer(address="52.218.1.1")
METADATA = Peer(address="169.254.169.254")
PORTS = {"metrics": 8080}


@pytest.fixture(scope="module")
def policies() -> list[Document]:
    """Those that a job brings, and those of monitoring."""
    documents = render(KUBERAY / "label") + render(KUBERAY / "monitoring")
    return [each["spec"] for each in documents if each["kind"] == "NetworkPolicy"]


def labels_of(peer: Peer) -> dict[str, str]:
    component = {"app.kubernetes.io/component": peer.component} if peer.component else {}
    return {**component, **peer.labels}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(key) == value for key, value in wanted) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def is_among(peer: Peer, entries: list[dict[str, Any]]) -> bool:
    """Whether one of a rule's `from` or `to` means the peer; without any, everybody is meant."""
    for entry in entries:
        if block := entry.get("ipBlock"):
            address = ipaddress.ip_address(peer.address or "10.0.0.1")
            excepted = any(address in ipaddress.ip_network(net) for net in block.get("except", []))
            if address in ipaddress.ip_network(block["cidr"]) and not excepted:
                return True
        elif peer.address is None:
            name = {"kubernetes.io/metadata.name": peer.namespace}
            space = entry.get("namespaceSelector")
            is_space = peer.namespace == "mnist-ocr" if space is None else matches(space, name)
            if is_space and matches(entry.get("podSelector", {}), labels_of(peer)):
                return True
    return not entries


def lets(policies: list[Document], way: str, pod: Peer, other: Peer, port: int, tcp: bool) -> bool:
    """Whether the policies on a pod allow its traffic of one way, `Ingress` or `Egress`."""
    if pod.namespace != "mnist-ocr" or pod.address:
        return True  # not ours
    own = [
        each
        for each in policies
        if way in each["policyTypes"] and matches(each["podSelector"], labels_of(pod))
    ]
    key = {"Ingress": "from", "Egress": "to"}[way]
    protocol = "TCP" if tcp else "UDP"
    return not own or any(
        is_among(other, rule.get(key, []))
        and any(
            PORTS.get(each["port"], each["port"]) == port and each["protocol"] == protocol
            for each in rule.get("ports", [{"port": port, "protocol": protocol}])
        )
        for policy in own
        for rule in policy.get(way.lower(), [])
    )


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        (WORKER, HEAD, 6379, True),
        (HEAD, WORKER, 10002, True),
        (WORKER, WORKER, 40000, True),
        (HEAD, S3, 443, True),
        (WORKER, S3, 443, True),
        (VERIFY, S3, 443, True),
        (OPERATOR, HEAD, 8265, True),
        (SUBMITTER, HEAD, 8265, True),
        (PROMETHEUS, HEAD, 8080, True),
        (PROMETHEUS, WORKER, 8080, True),
        (WORKER, DNS, 53, True),
        (SUBMITTER, DNS, 53, True),
        (SUBMITTER, HEAD, 6379, False),
        (SUBMITTER, WORKER, 8265, False),
        (SUBMITTER, S3, 443, False),
        (OPERATOR, HEAD, 6379, False),
        (OPERATOR, WORKER, 8265, False),
        (PROMETHEUS, HEAD, 8265, False),
        (ELSEWHERE, HEAD, 8265, False),
        (ELSEWHERE, HEAD, 6379, False),
        (ELSEWHERE, WORKER, 8080, False),
        (S3, HEAD, 8265, False),
        (STRAY, HEAD, 8265, False),
        (STRAY, S3, 443, False),
        (VERIFY, HEAD, 8265, False),
        (WORKER, VERIFY, 443, False),
        (WORKER, METADATA, 80, False),
        (WORKER, METADATA, 443, False),
        (WORKER, S3, 80, False),
        (WORKER, DNS, 9153, False),
    ],
)
def test_who_reaches_whom(
    policies: list[Document], source: Peer, target: Peer, port: int, allowed: bool
) -> None:
    """Both ends have to agree; what is not listed here as allowed is not."""
    assert allowed == (
        lets(policies, "Egress", source, target, port, tcp=True)
        and lets(policies, "Ingress", target, source, port, tcp=True)
    )


def test_names_are_asked_over_udp(policies: list[Document]) -> None:
    """As most resolvers do."""
    assert lets(policies, "Egress", WORKER, DNS, 53, tcp=False)
    assert not lets(policies, "Egress", WORKER, DNS, 123, tcp=False)
