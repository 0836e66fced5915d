"""An elastic program that uses neither AdaptDL nor anything of ours: only what docs/programs.md says.

Its replicas count steps together. The first holds a lock while it may train, so that it is seen if another one does too.
"""

import fcntl
import http.client
import json
import mmap
import os
import signal
import sys
import time
from multiprocessing.connection import Client, Listener

STEPS, LAST_STEP_NS, FIRST_STEP_NS, EPOCH, PROGRESS, BATCH, SAVE_ASKED, SAVES, SAVE_NS, SAVE_STEPS = range(10)
ACTIVE_NS, LEAVING = 10, 11
STEP_S = 0.02

lock_path, until = sys.argv[1:]
rank, replicas, group = (
    int(os.environ[f"ADAPTDL_{name}"]) for name in ("REPLICA_RANK", "NUM_REPLICAS", "NUM_RESTARTS")
)
with open(os.environ["RAYCONCILE_WORKER"], encoding="utf-8") as file:
    config = json.load(file)
with open(config["control"], "r+b") as file:
    page = memoryview(mmap.mmap(file.fileno(), 4096))
words, floats = page.cast("Q"), page.cast("d")
told_to_stop = []
signal.signal(signal.SIGTERM, lambda *_: told_to_stop.append(True))


def ask(method, what):
    """The status of an answer, and the answer."""
    host, port, secret = config["supervisor"]
    connection = http.client.HTTPConnection(host, port)
    connection.request(method, f"/{secret}/{what}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def wait_for(what):
    status = 408
    while status == 408:
        status, body = ask("GET", what)
    assert status == 200, (what, status)
    return body


def meet(peers):
    """The connections of the first replica to all others, or of another to the first."""
    where = peers[0], int(os.environ["ADAPTDL_MASTER_PORT"])
    key = bytes.fromhex(config["groupSecret"])
    if rank == 0:
        with Listener(where, backlog=replicas, authkey=key) as listener:
            return [listener.accept() for _ in range(replicas - 1)]
    while True:
        try:
            return [Client(where, authkey=key)]
        except ConnectionRefusedError:
            time.sleep(0.05)


def agree(wish):
    """The strongest wish of all replicas."""
    if rank == 0:
        wish = max([wish, *(peer.recv() for peer in others)])
    for peer in others:
        peer.send(wish)
    return wish if rank == 0 else others[0].recv()


def restored():
    """How many steps were made before this group."""
    names = os.listdir(os.environ["ADAPTDL_CHECKPOINT_PATH"])
    if not names:
        return 0
    with open(os.path.join(os.environ["ADAPTDL_CHECKPOINT_PATH"], *names, "steps.json"), encoding="ascii") as file:
        return json.load(file)


def save(steps):
    if rank > 0:
        return
    began, number = time.monotonic_ns(), max(words[SAVES] + 1, words[SAVE_ASKED])
    directory = os.path.join(config["saves"], str(number))
    os.makedirs(os.path.join(directory, "unfinished"))
    with open(os.path.join(directory, "unfinished", "steps.json"), "w", encoding="ascii") as file:
        json.dump(steps, file)
    os.rename(os.path.join(directory, "unfinished"), os.path.join(directory, f"checkpoint-{group}"))
    words[SAVE_NS], words[SAVE_STEPS] = time.monotonic_ns() - began, words[STEPS]
    words[SAVES] = number
    ask("POST", "saved")


def note_step(steps):
    now = time.monotonic_ns()
    words[FIRST_STEP_NS] = words[FIRST_STEP_NS] or now
    words[EPOCH], floats[PROGRESS], words[BATCH] = steps // 100 + 1, steps / 2, 64
    words[LAST_STEP_NS] = words[ACTIVE_NS] = now
    words[STEPS] += 1


GO_ON, SAVE, STOP, DONE = range(4)

others = meet(json.loads(wait_for(f"discover/{os.environ['ADAPTDL_JOB_ID']}/{group}?held")))
wait_for("release")
lock = open(lock_path, "a")
if rank == 0:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another group trains")
made = restored()
print(f"begin step={made} replicas={replicas} rank={rank}", flush=True)
while True:
    time.sleep(STEP_S)
    wish = STOP if told_to_stop else SAVE if words[SAVE_ASKED] > words[SAVES] else GO_ON
    wish = agree(DONE if rank == 0 and os.path.exists(until) else wish)
    made += 1
    note_step(made)
    if rank == 0:
        print(f"step={made} replicas={replicas}", flush=True)
    if wish == DONE:
        break
    if wish in (SAVE, STOP):
        save(made)
    if wish == STOP:
        fcntl.flock(lock, fcntl.LOCK_UN)
        words[LEAVING] = 1
        ask("POST", "left")
        sys.exit(143)
print("done", flush=True)
