"""AdaptDL's supervisor, as the worker of a slot sees it: HTTP on 127.0.0.1, for that worker alone.

`GET .../discover/{namespace}/{name}/{group}` names the peers in rank order; until the worker may meet them the
request is held and then answered 408, which makes AdaptDL ask again: any other error would end the worker. Whoever
asks may train when it is answered, so it waits for the release of the group; `?held` says that the bootstrap
holds the worker where it would load or train, and then the peers may meet before.
`PUT .../hints/{namespace}/{name}` reports scalability hints. `GET .../release`, `POST .../saved` and `POST
.../left` are our own: the bootstrap asks them for a script, and another program may do so itself (`docs/programs.md`).
The path begins with a secret that only the worker was given.
"""

import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOLD_S = 20.0
HINTS_BYTES = 64 << 10


class Supervisor:
    """Serves one slot's workers. `find` gives the run that belongs to a secret."""

    def __init__(self, slot):
        self.slot = slot
        self.secrets = {}

        class Handler(SupervisorHandler):
            supervisor = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True, name="supervisor").start()

    def admit(self, run):
        """Where a run's worker, and nobody else, finds this supervisor: host, port and the path's beginning."""
        secret = secrets.token_urlsafe(24)
        self.secrets[secret] = run
        return "127.0.0.1", self.server.server_port, secret

    def dismiss(self, run):
        self.secrets = {secret: other for secret, other in self.secrets.items() if other is not run}


class SupervisorHandler(BaseHTTPRequestHandler):
    """One request of a worker."""

    protocol_version = "HTTP/1.1"
    supervisor = None

    def do_GET(self):
        run, words = self.recognise()
        slot = self.supervisor.slot
        if run is None:
            self.answer(404)
        elif words == ["release"]:
            self.answer(200 if slot.await_release(run, HOLD_S) else 408)
        elif len(words) == 4 and words[0] == "discover":
            peers = slot.await_peers(run, self.path.endswith("?held"), HOLD_S)
            self.answer(200 if peers else 408, peers)
        else:
            self.answer(404)

    def do_POST(self):
        run, words = self.recognise()
        known = run is not None and words in (["saved"], ["left"])
        if known:
            self.supervisor.slot.look_at(run)
        self.answer(200 if known else 404)

    def do_PUT(self):
        run, words = self.recognise()
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if run is None or len(words) != 3 or words[0] != "hints":
            self.refuse(404)
        elif not 0 <= length <= HINTS_BYTES:
            self.refuse(413)
        else:
            # Passed on as text: whoever uses it checks it.
            self.supervisor.slot.note_hints(run, self.rfile.read(length).decode(errors="replace"))
            self.answer(200)

    def recognise(self):
        _, secret, *words = self.path.split("?")[0].split("/")
        return self.supervisor.secrets.get(secret), words

    def refuse(self, status):
        """Answer without reading the body, and close, for what follows could not be understood."""
        self.close_connection = True
        self.answer(status)

    def answer(self, status, body=None):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments):
        """Say nothing: the slot reports what matters."""
