"""Programs that make trouble, by name."""

import json
import os
import sys
import time
import urllib.error
import urllib.request


def exits():
    print("this cannot work", file=sys.stderr)
    sys.exit(3)


def plain():
    """Knows nothing of AdaptDL."""
    print("did it", os.getcwd(), flush=True)
    with open("result.txt", "w", encoding="utf-8") as file:
        file.write("42\n")


def hangs():
    print("hanging", flush=True)
    while True:
        time.sleep(3600)


def loud():
    line = b"x" * 1023 + b"\n"
    for _ in range(1 << 10):
        os.write(1, line * 1024)
    print("the last line", flush=True)


def hostile():
    """Reports hints that no program should."""
    url = os.environ["ADAPTDL_SUPERVISOR_URL"] + "/hints/" + os.environ["ADAPTDL_JOB_ID"]
    good = {"initBatchSize": 64, "maxBatchSize": 128, "localBszBounds": [8, 64], "maxProfiledReplicas": 1,
            "gradientAccumulation": False, "gradParams": {"norm": 1.0, "var": 1.0}, "globalBatchSize": None,
            "perfParams": {"alpha_c": 0.1, "beta_c": 0.01, "alpha_n": 1e-8, "beta_n": 1e-8, "alpha_r": 1e-8,
                           "beta_r": 1e-8, "gamma": 1.0}}
    bodies = [b"", b"\xff\xfe", b"[" * 50000, b"{}", b"null", b'{"initBatchSize": 1e999}', b"NaN" * 1000,
              json.dumps({**good, "maxProfiledReplicas": 10**30}).encode(),
              json.dumps({**good, "perfParams": {**good["perfParams"], "beta_c": -1.0}}).encode(),
              json.dumps({**good, "perfParams": {**good["perfParams"], "gamma": float("nan")}}).encode()]
    for body in bodies:
        request = urllib.request.Request(url, data=body, method="PUT")
        with urllib.request.urlopen(request) as response:
            assert response.status == 200
        time.sleep(1.5)
    for method, address in (("PUT", url + "x" * 100_000), ("PUT", url.replace("/hints", "x/hints")), ("GET", url)):
        try:
            urllib.request.urlopen(urllib.request.Request(address, data=b"{}", method=method))
        except (urllib.error.HTTPError, OSError) as error:
            print("refused", error, flush=True)
    print("still here", flush=True)


def dump():
    """What a worker sees of its surroundings."""
    import helper
    import torch

    seen = {"argv": sys.argv, "name": __name__, "file": __file__, "cwd": os.getcwd(), "helper": helper.VALUE,
            "threads": torch.get_num_threads(), "env": dict(os.environ), "path0": sys.path[0]}
    print("SEEN " + json.dumps(seen), flush=True)
    time.sleep(5)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
