"""Which call fails how, and how that looks on the wire."""

import json
import threading
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

FIELDS = {"action", "match", "error", "message", "status", "drop", "delayS", "atMost", "times", "from"}
# EC2's API reference, "Error codes"; all others are the client's: 400.
STATUS = {
    "InsufficientInstanceCapacity": 500, "InsufficientFreeAddressesInSubnet": 400, "InsufficientCapacity": 500,
    "InternalError": 500, "InternalFailure": 500, "InternalServerError": 500, "Unavailable": 503,
    "ServiceUnavailable": 503, "RequestLimitExceeded": 503, "SlowDown": 503, "AuthFailure": 401,
    "UnauthorizedOperation": 403, "AccessDenied": 403, "InvalidClientTokenId": 403, "SignatureDoesNotMatch": 403,
}  # fmt: skip


@dataclass
class Call:
    """A request, as far as faults look at it."""

    service: str
    action: str
    form: str  # How its service speaks: `ec2`, `query`, `json`, `rest-xml` or `rest-json`.
    parameters: dict = field(default_factory=dict)
    by_instance: bool = False


class Faults:
    """The faults in force, and how often each was used; and how often each action was called."""

    def __init__(self):
        self.lock = threading.Lock()
        self.faults, self.used, self.calls = [], [], {}

    def replace(self, faults):
        for fault in faults:
            if unknown := set(fault) - FIELDS:
                raise ValueError(f"a fault has no {', '.join(sorted(unknown))}: it has {', '.join(sorted(FIELDS))}")
            if not {"error", "drop", "delayS", "atMost"} & set(fault) or "action" not in fault:
                raise ValueError("a fault has an action, and one of error, drop, delayS, atMost")
        with self.lock:
            self.faults, self.used = faults, [0] * len(faults)

    def shown(self):
        with self.lock:
            return [{**fault, "used": used} for fault, used in zip(self.faults, self.used, strict=True)]

    def counted(self):
        with self.lock:
            return dict(self.calls)

    def take(self, call):
        """Count the call; the first fault that fits it and is not used up, or nothing."""
        with self.lock:
            if not call.by_instance:
                self.calls[call.action] = self.calls.get(call.action, 0) + 1
            for number, fault in enumerate(self.faults):
                times = fault.get("times")
                if fits(fault, call) and (times is None or self.used[number] < times):
                    self.used[number] += 1
                    return fault
        return {}


def fits(fault, call):
    if fault["action"] not in ("*", call.action):
        return False
    if call.by_instance != (fault.get("from") == "instance"):
        return False
    return all(_equal(call.parameters.get(name), wanted) for name, wanted in fault.get("match", {}).items())


def _equal(value, wanted):
    if wanted is None or value is None:
        return value is wanted
    return str(value) == str(wanted)


def wire(call, fault):
    """The status, the type and the body that an error has."""
    code = fault["error"]
    message = fault.get("message", f"{code}, as a test wants it.")
    status = fault.get("status", STATUS.get(code, 400))
    if call.form in ("json", "rest-json"):
        body = json.dumps({"__type": code, "message": message, "Message": message})
        return status, "application/x-amz-json-1.1", body
    code, message = escape(code), escape(message)
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    request = "<RequestId>fault</RequestId>"
    body = {
        "ec2": f"<Response><Errors><Error>{error}</Error></Errors><RequestID>fault</RequestID></Response>",
        "query": f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error>{request}</ErrorResponse>",
        "rest-xml": f"<Error>{error}{request}</Error>",
    }[call.form]
    return status, "text/xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
