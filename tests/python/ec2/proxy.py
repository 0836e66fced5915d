"""The endpoint: moto, behind faults on demand.

POST /_faults  replaces the faults in force with a JSON list of them, each of
               {"action": the call's name, or "*",
                "match": {parameter: value; null: it is not given}, which may be left out,
                at least one of
                "error": code (and "status", "message"): nothing is done, and this is the answer;
                "drop": true: it is done, but the connection is closed without an answer;
                "delayS": so long it takes before anything else;
                "atMost": for RunInstances: there is capacity for no more instances than this,
                "times": how often, or null for ever (the default),
                "from": "instance": it strikes only the `aws` commands of instances, which no other fault does}
               The first one that fits a call, and is not used up, strikes it.
GET  /_faults  shows them, with how often each was `used`
GET  /_calls   counts the calls by action, those of instances aside
POST /_prices  replaces what AWS's price list has: {instance type: dollars an hour}
GET  /_left    lists everything left that somebody made: {kind, id, tags, ...}
"""

import json
import re
import socket
import threading
import time
from io import BytesIO
from urllib.parse import parse_qsl

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import make_server

from ec2 import faults, pricing
from ec2.launch import AT_MOST

SERVICE = re.compile(r"Credential=[^/]*/\d+/[^/]*/([^/]+)/aws4_request")
BY_INSTANCE = "HTTP_X_RAYCONCILE_INSTANCE"


class Quiet(MotoRequestHandler):
    def log(self, *_arguments):
        pass


class Proxy:
    """A WSGI application around moto's."""

    def __init__(self, moto, left, port):
        self.moto, self.left, self.faults = moto, left, faults.Faults()
        self.price_list = pricing.PriceList()
        self.server = make_server("127.0.0.1", port, self, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def start(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), name="proxy", daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/_"):
            return answer(start_response, *self._own(environ))
        call = read(environ)
        fault = self.faults.take(call)
        time.sleep(fault.get("delayS", 0))
        if "error" in fault:
            return answer(start_response, *faults.wire(call, fault))
        if call.service == "pricing" and not fault.get("drop"):
            return answer(start_response, *self.price_list.answer(call))
        if "atMost" in fault:
            environ["HTTP_" + AT_MOST.upper().replace("-", "_")] = str(fault["atMost"])
        with self.moto.held(call.service):
            body = self.moto.application(environ, start_response)
        if fault.get("drop"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return body

    def _own(self, environ):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        shown = {"/_faults": self.faults.shown, "/_calls": self.faults.counted, "/_left": self.left.all}
        if method == "GET" and path in shown:
            return 200, "application/json", json.dumps(shown[path]())
        replaced = {"/_faults": self.faults.replace, "/_prices": self.price_list.replace}
        if method != "POST" or path not in replaced:
            return 404, "text/plain", f"there is no {method} {path}"
        try:
            replaced[path](json.loads(body_of(environ)))
        except (ValueError, TypeError) as error:
            return 400, "text/plain", str(error)
        return 200, "application/json", "[]"


def answer(start_response, status, kind, body):
    data = body.encode()
    start_response(f"{status} {'OK' if status == 200 else 'Error'}", [
        ("Content-Type", kind), ("Content-Length", str(len(data))),
    ])  # fmt: skip
    return [data]


def body_of(environ):
    """The body, which stays readable."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = BytesIO(body)
    return body


def read(environ):
    """What is called, in whichever of AWS's protocols."""
    signed = SERVICE.search(environ.get("HTTP_AUTHORIZATION", ""))
    service = signed[1].lower() if signed else "s3"
    by_instance = BY_INSTANCE in environ
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        parameters = json.loads(body_of(environ) or b"{}")
        return faults.Call(service, target.rpartition(".")[2], "json", parameters, by_instance)
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        parameters = dict(parse_qsl(body_of(environ).decode(), keep_blank_values=True))
        form = "ec2" if service == "ec2" else "query"
        return faults.Call(service, parameters.get("Action", ""), form, parameters, by_instance)
    # REST: the path says what, so that the service and the method must do for a name.
    form = "rest-xml" if service == "s3" else "rest-json"
    action = f"{service}:{environ['REQUEST_METHOD']}"
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    return faults.Call(service, action, form, {**query, "path": environ["PATH_INFO"]}, by_instance)
