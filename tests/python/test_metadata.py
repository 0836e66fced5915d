"""The metadata service as slots ask it: both of its versions, and whatever may be wrong with it."""

import json
import threading
import time
import unittest
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rayconcile_agent import metadata


class Service(BaseHTTPRequestHandler):
    """EC2's service, as its user guide describes it. What it says and how it fails are its server's attributes."""

    def do_PUT(self):
        server = self.server
        server.tokens_asked += 1
        if self.path != "/latest/api/token" or server.put_status != 200:
            return self.answer(server.put_status if server.put_status != 200 else 404)
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.answer(200, server.token)

    def do_GET(self):
        server = self.server
        if server.get_status != 200:
            return self.answer(server.get_status)
        if server.put_status == 200 and self.headers.get("X-aws-ec2-metadata-token") != server.token:
            return self.answer(401)
        said = server.says.get(self.path.removeprefix("/latest/meta-data/"))
        self.answer(404) if said is None else self.answer(200, said)

    def answer(self, status, body=""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments):
        pass


def in_s(seconds, form="%Y-%m-%dT%H:%M:%SZ"):
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime(form)


class MetadataTest(unittest.TestCase):
    def setUp(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        self.server.daemon_threads = True
        self.server.says, self.server.token, self.server.tokens_asked = {}, "first", 0
        self.server.put_status = self.server.get_status = 200
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.service = metadata.MetadataService(f"http://127.0.0.1:{self.server.server_port}")

    def left_s(self, notice):
        return notice.deadline - time.monotonic()

    def test_nothing_is_announced_until_there_is_something(self):
        self.assertIsNone(self.service.look())
        self.server.says["events/maintenance/scheduled"] = "[]"
        self.assertIsNone(self.service.look())
        self.assertEqual(self.server.tokens_asked, 1, "one token is good for many questions")

    def test_an_interruption_has_an_action_and_mostly_a_time(self):
        for action in ("terminate", "stop"):
            self.server.says["spot/instance-action"] = json.dumps({"action": action, "time": in_s(120)})
            notice = self.service.look()
            self.assertEqual((notice.kind, notice.action), ("SpotInterruption", action))
            self.assertTrue(110 < self.left_s(notice) < 130)
        self.server.says["spot/instance-action"] = json.dumps({"action": "hibernate"})
        self.assertIsNone(self.service.look().deadline)
        self.assertIsNone(self.service.look().report()["deadlineMs"])

    def test_maintenance_counts_while_it_is_to_come_and_before_a_recommendation(self):
        event = {"Code": "instance-reboot", "State": "active", "NotBefore": in_s(3600, "%d %b %Y %H:%M:%S GMT")}
        self.server.says["events/recommendations/rebalance"] = json.dumps({"noticeTime": in_s(-10)})
        self.assertEqual(self.service.look().kind, "RebalanceRecommendation")
        self.server.says["events/maintenance/scheduled"] = json.dumps([{**event, "State": "completed"}, event])
        notice = self.service.look()
        self.assertEqual((notice.kind, notice.action), ("ScheduledMaintenance", "instance-reboot"))
        self.assertTrue(3500 < self.left_s(notice) < 3700)
        self.server.says["events/maintenance/scheduled"] = json.dumps([{**event, "State": "canceled"}])
        self.assertEqual(self.service.look().kind, "RebalanceRecommendation")

    def test_a_token_that_is_not_good_any_more_is_replaced(self):
        self.assertIsNone(self.service.look())
        self.server.token = "second"
        self.server.says["spot/instance-action"] = json.dumps({"action": "terminate", "time": in_s(120)})
        self.assertEqual(self.service.look().action, "terminate")
        self.assertEqual(self.server.tokens_asked, 2)

    def test_where_there_is_no_version_2_version_1_is_asked(self):
        for status in (403, 404, 405):
            self.server.put_status = status
            self.service = metadata.MetadataService(f"http://127.0.0.1:{self.server.server_port}")
            self.server.says["spot/instance-action"] = json.dumps({"action": "stop", "time": in_s(120)})
            self.assertEqual(self.service.look().action, "stop")

    def test_a_service_that_is_out_of_order_says_nothing_and_harms_nothing(self):
        self.server.get_status = 503
        with self.assertRaises(OSError):
            self.service.look()
        self.server.get_status, self.server.put_status = 200, 500
        self.service = metadata.MetadataService(f"http://127.0.0.1:{self.server.server_port}")
        with self.assertRaises(OSError):
            self.service.look()
        self.server.put_status = 200
        self.server.says["spot/instance-action"] = "<html>"
        with self.assertRaises(ValueError):
            self.service.look()
        self.server.says.clear()
        self.assertIsNone(self.service.look())


if __name__ == "__main__":
    unittest.main()
