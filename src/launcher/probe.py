import json, os, platform, select, socket, sys

# What the head is, and whether whoever asks can reach the port of Rayconcile's agent: it is served for a moment, where
# the agent would serve. On the head, its address is the one of Ray's GCS, which Ray gives to its jobs.
port, nonce, patience_s = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
address = os.environ["RAY_ADDRESS"].rpartition(":")[0].strip("[]")
listeners = []
for host in dict.fromkeys((address, "127.0.0.1")):
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listeners.append(socket.create_server((host, port), family=family))
    except OSError:
        pass  # Somebody serves there already.
facts = {
    "system": platform.system(),
    "machine": platform.machine(),
    "libc": platform.libc_ver(),
    "listens": bool(listeners),
}
print(json.dumps(facts), flush=True)
body = json.dumps({"probe": nonce}).encode()
asked = b""
while listeners and nonce.encode() not in asked:
    ready, _, _ = select.select(listeners, [], [], patience_s)
    if not ready:
        break
    connection, _ = ready[0].accept()
    try:
        with connection:
            connection.settimeout(patience_s)
            asked = connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    except OSError:
        pass
