"""The instance metadata service, for any number of instances, each below its own address.

It answers as EC2's does where tokens are required (its user guide: "Use IMDSv2", "Instance metadata categories",
"Spot Instance interruption notices", "EC2 instance rebalance recommendations", "View scheduled events").
"""

import json
import secrets
import threading
import time
from datetime import datetime, timedelta, timezone

TOKEN = "/latest/api/token"
DATA = "/latest/meta-data/"
INTERRUPTION = "spot/instance-action"
REBALANCE = "events/recommendations/rebalance"
MAINTENANCE = "events/maintenance/scheduled"
PATHS = {"terminate": INTERRUPTION, "rebalance": REBALANCE, "maintenance": MAINTENANCE}


class Metadata:
    def __init__(self, moto):
        self.moto, self.lock = moto, threading.Lock()
        self.tokens = {}  # token -> (instance, when it expires)
        self.announced = {}  # (instance, path) -> text

    def announce(self, instance, kind, in_s):
        """There is a notice from now on: `kind` is one of PATHS."""
        now = datetime.now(timezone.utc)
        then = now + timedelta(seconds=in_s)
        said = {
            "terminate": {"action": "terminate", "time": f"{then:%Y-%m-%dT%H:%M:%SZ}"},
            "rebalance": {"noticeTime": f"{now:%Y-%m-%dT%H:%M:%SZ}"},
            "maintenance": [{
                "Code": "system-reboot", "Description": "scheduled reboot", "State": "active",
                "EventId": f"instance-event-0{secrets.token_hex(8)}", "NotBefore": _long(then),
                "NotAfter": _long(then + timedelta(minutes=15)), "NotBeforeDeadline": _long(then + timedelta(days=1)),
            }],
        }  # fmt: skip
        with self.lock:
            self.announced[(instance, PATHS[kind])] = json.dumps(said[kind])

    def answer(self, method, address, path, headers):
        """The status and the text for a request of the instance that has the address."""
        with self.moto.lock:
            instance = self.moto.at(address)
            known = facts(instance) if instance is not None else None
        if known is None:
            return 404, ""
        with self.lock:
            if (method, path) == ("PUT", TOKEN):
                return self._token(instance.id, headers.get("X-aws-ec2-metadata-token-ttl-seconds", ""))
            if method != "GET":
                return 405, ""
            owner, expiry = self.tokens.get(headers.get("X-aws-ec2-metadata-token"), (None, 0))
            if owner != instance.id or expiry < time.monotonic():
                return 401, ""
            name = path.removeprefix(DATA)
            text = self.announced.get((instance.id, name), known.get(name))
        return (404, "") if text is None else (200, text)

    def _token(self, instance, ttl):
        if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return 400, ""
        token = secrets.token_urlsafe(32)
        self.tokens[token] = (instance, time.monotonic() + int(ttl))
        return 200, token


def facts(instance):
    zone = instance.placement.zone
    return {
        "ami-id": instance.image_id,
        "instance-id": instance.id,
        "instance-life-cycle": instance.lifecycle or "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": instance.private_ip_address,
        "placement/availability-zone": zone,
        "placement/region": instance.region_name,
        MAINTENANCE: "[]",
    }


def _long(time_):
    return f"{time_:%d %b %Y %H:%M:%S} GMT"
