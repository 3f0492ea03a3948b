"""Histories: what a client asked and was answered, in a file of its own, an event a line.

  connect  pid, server       a session has begun, with the server on that port
  call     call, ...         about to be sent, with all that is asked
  answer   value             of the last call
  error    sqlstate          of the last call; the session goes on
  lost                       the connection is gone: what became of the last call, if it is not answered, nobody knows
  close                      the client has ended the session
  pipeline calls             about to be sent at once; those that are answered follow as `call` and `answer` or `error`
  pipeline_end               the others were not executed

Each has `at`, in nanoseconds of a clock that all processes of the machine share and nobody sets. It is the clock
that the server counts leases by. Lines are written one by one, so that a client that is killed leaves what it did.
"""

import json
import os
import time


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class History:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event, **what):
        os.write(self.file, json.dumps({"at": now(), "event": event, **what}).encode() + b"\n")


def read(path):
    with open(path, "rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]
