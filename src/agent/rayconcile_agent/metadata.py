"""The instance metadata service of a cloud machine, and what it announces: that the machine will be taken away.

EC2's: `spot/instance-action` and `events/recommendations/rebalance` are 404 until there is something to say;
`events/maintenance/scheduled` is a list. Version 2 of the service wants a token, which lives for a while; where
version 2 is not offered, version 1 is asked (Amazon EC2 User Guide, "Instance metadata").
"""

import datetime
import json
import time
import urllib.error
import urllib.request

# EC2 advises to ask every five seconds. Of a notice of two minutes each second counts, and asking costs little.
PERIOD_S = 2.0
TIMEOUT_S = 2.0
TOKEN_S = 21600
SPOT = "meta-data/spot/instance-action"
REBALANCE = "meta-data/events/recommendations/rebalance"
MAINTENANCE = "meta-data/events/maintenance/scheduled"
# Maintenance that is over or was called off is listed for a while.
PENDING = ("active", None)


class Notice:
    """That a machine will be taken away: why, how, and when, on this process's own clock, if that was said."""

    def __init__(self, kind, action, deadline):
        self.kind, self.action, self.deadline = kind, action, deadline

    def report(self):
        left_ms = None if self.deadline is None else (self.deadline - time.monotonic()) * 1000
        return {"kind": self.kind, "action": self.action, "deadlineMs": left_ms}

    def same(self, other):
        return other is not None and (self.kind, self.action) == (other.kind, other.action)


class MetadataService:
    """One service. `look` is to be called again and again."""

    def __init__(self, endpoint):
        self.latest = endpoint.rstrip("/") + "/latest/"
        self.token, self.renew_at = None, 0.0
        # Never through a proxy: the service is the machine's own.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def look(self):
        """The most urgent notice there is, or None.

        Raises OSError or ValueError if that cannot be known now.
        """
        if spot := self.document(SPOT):
            # `terminate` and `stop` have a time; hibernation begins at once.
            return Notice("SpotInterruption", spot["action"], moment(spot.get("time")))
        events = [event for event in self.document(MAINTENANCE) or [] if event.get("State") in PENDING]
        if events:
            first = min(events, key=lambda event: moment(event.get("NotBefore")) or 0.0)
            return Notice("ScheduledMaintenance", first.get("Code", "maintenance"), moment(first.get("NotBefore")))
        if self.document(REBALANCE):
            return Notice("RebalanceRecommendation", "rebalance", None)
        return None

    def document(self, path):
        """A document of the service, or None if it has none of that name."""
        for again in (True, False):
            try:
                return json.loads(self.ask(path))
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or not again:
                    raise
                # The token is not good any more, whatever was said of its life.
                self.renew_at = 0.0

    def ask(self, path):
        headers = {}
        if token := self.current_token():
            headers["X-aws-ec2-metadata-token"] = token
        request = urllib.request.Request(self.latest + path, headers=headers)
        with self.opener.open(request, timeout=TIMEOUT_S) as response:
            return response.read()

    def current_token(self):
        """A token of version 2, or None where the service does not know that version."""
        if time.monotonic() < self.renew_at:
            return self.token
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
        request = urllib.request.Request(self.latest + "api/token", method="PUT", headers=headers)
        try:
            with self.opener.open(request, timeout=TIMEOUT_S) as response:
                self.token = response.read().decode()
        except urllib.error.HTTPError as error:
            if error.code not in (403, 404, 405):
                raise
            self.token = None
        self.renew_at = time.monotonic() + TOKEN_S / 2
        return self.token


def moment(text):
    """A time of the service on this process's monotonic clock, or None. Two forms of it are in use."""
    if not text:
        return None
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%d %b %Y %H:%M:%S GMT"):
        try:
            then = datetime.datetime.strptime(text, form).replace(tzinfo=datetime.timezone.utc)
            return time.monotonic() + (then - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
        except ValueError:
            continue
    return None
