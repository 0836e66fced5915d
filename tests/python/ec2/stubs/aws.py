"""`aws`: asks the region itself for parameters of SSM. Everything else is recorded, and fails."""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request


def main(arguments):
    if arguments[:2] == ["ssm", "get-parameter"]:
        return get_parameter(arguments[2:])
    if arguments[:2] == ["ecr", "get-login-password"]:
        print("password")
        return 0
    print(f"aws: this stub does not know: {' '.join(arguments[:2])}", file=sys.stderr)
    return 252


def get_parameter(arguments):
    parser = argparse.ArgumentParser(prog="aws ssm get-parameter")
    parser.add_argument("--name", required=True)
    parser.add_argument("--with-decryption", action="store_true")
    parser.add_argument("--query")
    parser.add_argument("--output", default="json")
    parser.add_argument("--region", required=True)  # An instance has none configured.
    options, _others = parser.parse_known_args(arguments)
    asked = {"Name": options.name, "WithDecryption": options.with_decryption}
    try:
        answer = call("GetParameter", asked, options.region)
    except urllib.error.HTTPError as error:
        said = json.loads(error.read() or b"{}")
        code, message = said.get("__type", str(error.code)), said.get("message", "")
        print(f"\nAn error occurred ({code}) when calling the GetParameter operation: {message}", file=sys.stderr)
        return 254
    except OSError as error:
        print(f'\nCould not connect to the endpoint URL: "{error}"', file=sys.stderr)
        return 255
    for part in filter(None, (options.query or "").split(".")):
        answer = answer[part]
    print(answer if options.output == "text" else json.dumps(answer, indent=4))
    return 0


def call(action, asked, region):
    scope = f"instance/20260101/{region}/ssm/aws4_request"
    request = urllib.request.Request(os.environ["REGION_ENDPOINT"], data=json.dumps(asked).encode(), headers={
        "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"AmazonSSM.{action}",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none",
        "X-Rayconcile-Instance": os.environ["REGION_INSTANCE"],
    })  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())
