"""The HTTP server through which tests look at instances and have things happen to them.

GET  /_instances        all that there were: [{id, address, type, zone, lifecycle, state, byItself: whether it has shut
                        itself down, running: whether any of its processes lives, output: the last 4,000 characters, calls: [[command, argument, ...]]}]
GET  /_most             how many instances were pending or running at once, at most
POST /_notice/INSTANCE  {"kind": "terminate" | "rebalance" | "maintenance", "inS": 120}: its metadata service says so.
                        A spot instance that is to be terminated is, after so long
POST /_kill/INSTANCE    its machine dies at once
POST /_boot/INSTANCE    its user data is run once more
POST /_neverBoot        a list of instance types, or ["*"]: what is launched from now on runs nothing
POST /_apart            a list of instance types: what is launched from now on does not reach its cluster's head
GET, PUT /imds/ADDRESS/latest/...  the metadata service of the instance that has the address

The `shutdown` command of instances calls POST /_shutdown/INSTANCE.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ec2 import imds


class Control(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.instances = self.metadata = None  # Set before it is started.

    def start(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), name="control", daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/_instances":
            return self.say(200, json.dumps(self.server.instances.shown()))
        if self.path == "/_most":
            return self.say(200, json.dumps(self.server.instances.most))
        self.metadata()

    def do_PUT(self):
        self.body()
        self.metadata()

    def do_POST(self):
        body = self.body()
        try:
            self.act(*self.path.removeprefix("/_").partition("/")[::2], json.loads(body or b"{}"))
        except LookupError as error:
            self.say(404, str(error))
        except (ValueError, TypeError) as error:
            self.say(409, str(error))
        else:
            self.say(200, "{}")

    def act(self, what, instance, body):
        instances = self.server.instances
        if what == "notice":
            if body.get("kind") not in imds.PATHS:
                raise ValueError(f"kind is one of {', '.join(imds.PATHS)}")
            instances.notice(instance, body["kind"], body.get("inS", 120))
        elif what == "kill":
            instances.kill(instance)
        elif what == "boot":
            instances.boot_again(instance)
        elif what == "shutdown":
            instances.shut_down(instance)
        elif what == "neverBoot":
            instances.never_boot = set(body)
        elif what == "apart":
            instances.apart = set(body)
        else:
            raise LookupError(f"there is no POST {self.path}")

    def metadata(self):
        first, address, rest = (self.path.lstrip("/").split("/", 2) + ["", ""])[:3]
        if first != "imds":
            return self.say(404, f"there is no {self.command} {self.path}")
        self.say(*self.server.metadata.answer(self.command, address, f"/{rest}", self.headers))

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, status, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments):
        pass
