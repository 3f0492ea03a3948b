"""What a server gave out after another one had taken over.

The rules of make chaos are about holds. A lock that was granted before another server took over stays held on the old
one, and nothing can take it from there. So between two primaries something else is asked: a grant that was asked for
when the new one had already granted anything must not come from the old one. A token may, as long as it is smaller than
all of the new one: the old one has a second's worth of them that its standbys know of.
"""

import glob
import os
from dataclasses import dataclass

import history

OF = {name: "locks" for name in ("acquire", "try", "lock", "acquire_all")}
OF |= {name: "slots" for name in ("acquire_slot", "try_slot", "slot")}
OF |= {name: "leases" for name in ("acquire_lease", "try_lease", "lease")}
OF |= {"token": "tokens"}


@dataclass
class Grant:
    """Of locks, slots, leases or tokens, by the server on a port."""

    what: str
    client: int
    server: int
    sent: int
    answered: int
    value: object


def of_client(number, events):
    server = call = None
    # what is only had with the COMMIT
    pending = []
    in_block = False
    for event in events:
        if event["event"] == "connect":
            server, in_block, pending = event["server"], False, []
        elif event["event"] == "call":
            call = event
        elif event["event"] == "answer":
            name, value = call["call"], event["value"]
            if name in ("begin", "rollback"):
                in_block, pending = name == "begin", []
            elif name == "commit":
                for grant in pending:
                    grant.answered = event["at"]
                yield from pending
                in_block, pending = False, []
            elif name in OF and (name == "lock" or value not in (None, False)):
                grant = Grant(OF[name], number, server, call["at"], event["at"], value)
                if in_block and grant.what == "leases":
                    pending.append(grant)
                else:
                    yield grant


def read(folder):
    """All grants of the histories in a folder."""
    grants = []
    for path in glob.glob(os.path.join(glob.escape(folder), "client.*")):
        grants += of_client(int(path.rsplit(".", 1)[1]), history.read(path))
    return sorted(grants, key=lambda grant: grant.answered)


def first(grants, server):
    """When that server first answered for one."""
    return min((grant.answered for grant in grants if grant.server == server and grant.what != "tokens"), default=None)


def late(grants, old, new):
    """Those of the old server that were asked for when the new one had given out any."""
    since = first(grants, new)
    return [
        grant
        for grant in grants
        if grant.server == old and since is not None and grant.sent > since and grant.what != "tokens"
    ]


def tokens(grants, server):
    """Those that the server has drawn, also for leases."""
    return [grant.value for grant in grants if grant.server == server and grant.what in ("tokens", "leases")]


def longest_gap(grants, what="locks"):
    """For how long nobody was given any, in nanoseconds."""
    times = [grant.answered for grant in grants if grant.what == what]
    return max((after - before for before, after in zip(times, times[1:])), default=0)
