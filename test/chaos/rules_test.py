"""Histories written by hand: for each rule those that it must let pass, and those that it must find."""

import unittest

import model
import rules

PIDS = 1000


class Story:
    """A client's history, in moments of our own."""

    def __init__(self, number=1):
        self.number = number
        self.events = []
        self.connect(0)

    def connect(self, at, pid=None):
        self.add("connect", at, pid=pid or PIDS + self.number)
        return self

    def add(self, event, at, **what):
        self.events.append({"event": event, "at": at, **what})
        return self

    def asks(self, at, call, **arguments):
        return self.add("call", at, call=call, **arguments)

    def did(self, start, end, call, value=None, **arguments):
        return self.asks(start, call, **arguments).add("answer", end, value=value)

    def failed(self, start, end, call, sqlstate, **arguments):
        return self.asks(start, call, **arguments).add("error", end, sqlstate=sqlstate)

    def lost(self, at):
        return self.add("lost", at)

    # in few words

    def acquires(self, start, end, value=True, key="k", shared=False, scope="session", timeout=None):
        return self.did(start, end, "acquire", value, key=key, shared=shared, scope=scope, timeout=timeout)

    def releases(self, start, end, value=True, key="k", shared=False):
        return self.did(start, end, "release", value, key=key, shared=shared)

    def leases(self, start, end, token, ttl, key="l"):
        return self.did(start, end, "acquire_lease", token, key=key, ttl=ttl, timeout=None, slots=1)

    def renews(self, start, end, token, value=True, ttl=None, key="l"):
        return self.did(start, end, "renew", value, key=key, token=token, ttl=ttl)

    def slots(self, start, end, value, slots=2, key="s"):
        return self.did(start, end, "acquire_slot", value, key=key, slots=slots, scope="session", timeout=None)


def judge(*stories, slots=None, snapshots=(), disturbed=True, floor=0, counted=None, killed=None):
    """The rules that are broken."""
    facts = model.Facts()
    for story in stories:
        model.Client(story.number, facts, disturbed).replay(story.events, (killed or {}).get(story.number, model.FAR))
    rules.judge(facts, slots or {}, snapshots, floor, counted)
    return {rule for rule, _ in facts.violations}


class Exclusion(unittest.TestCase):
    def test_one_after_the_other(self):
        first = Story(1).acquires(1, 2).releases(5, 8)
        self.assertEqual(judge(first, Story(2).acquires(3, 6).releases(9, 10)), set())

    def test_two_at_a_time(self):
        first = Story(1).acquires(1, 2).releases(5, 8)
        self.assertEqual(judge(first, Story(2).acquires(3, 4).releases(9, 10)), {"exclusion"})

    def test_readers_share(self):
        stories = [Story(i).acquires(1, 2, shared=True).releases(8, 9, shared=True) for i in (1, 2)]
        self.assertEqual(judge(*stories), set())

    def test_a_reader_and_a_writer(self):
        reader = Story(1).acquires(1, 2, shared=True).releases(8, 9, shared=True)
        self.assertEqual(judge(reader, Story(2).acquires(3, 4).releases(5, 6)), {"exclusion"})

    def test_levels_of_one_session(self):
        story = Story().acquires(1, 2).acquires(3, 4, shared=True).releases(5, 6, shared=True).releases(7, 8)
        self.assertEqual(judge(story), set())

    def test_a_level_is_left(self):
        first = Story(1).acquires(1, 2).acquires(3, 4).releases(5, 6).releases(20, 21)
        self.assertEqual(judge(first, Story(2).acquires(7, 8).releases(9, 10)), {"exclusion"})

    def test_all_keys(self):
        first = Story(1).did(1, 2, "acquire_all", True, keys=["j", "k"], shared=False, scope="session", timeout=None)
        first.did(9, 10, "release_all", 2)
        self.assertEqual(judge(first, Story(2).acquires(3, 4).releases(5, 6)), {"exclusion"})

    def test_a_lost_session_holds_until_it_was_heard_of(self):
        first = Story(1).acquires(1, 2).did(5, 6, "held", True, key="k").asks(7, "held", key="k").lost(20)
        self.assertEqual(judge(first, Story(2).acquires(6, 7)), set())
        second = Story(2).acquires(3, 4).did(8, 9, "held", True, key="k")
        self.assertEqual(judge(first, second), {"exclusion"})

    def test_a_release_that_may_have_been(self):
        first = Story(1).acquires(1, 2).failed(5, 9, "release", "57014", key="k", shared=False)
        self.assertEqual(judge(first, Story(2).acquires(6, 7).releases(8, 9)), set())
        self.assertEqual(judge(first, Story(2).acquires(3, 4).releases(8, 9)), {"exclusion"})

    def test_transaction_scope_ends_with_the_transaction(self):
        for end in ("commit", "rollback"):
            first = Story(1).did(1, 2, "begin").acquires(3, 4, scope="transaction").did(10, 12, end)
            self.assertEqual(judge(first, Story(2).acquires(8, 11).releases(13, 14)), set())
            self.assertEqual(judge(first, Story(2).acquires(8, 9).releases(13, 14)), {"exclusion"})

    def test_transaction_scope_ends_with_an_error(self):
        first = Story(1).did(1, 2, "begin").acquires(3, 4, scope="transaction")
        first.failed(6, 9, "acquire", "57014", key="j", shared=False, scope="transaction", timeout=None)
        first.did(20, 21, "rollback")
        self.assertEqual(judge(first, Story(2).acquires(7, 8).releases(9, 10)), set())
        self.assertEqual(judge(first, Story(2).acquires(5, 5).releases(9, 10)), {"exclusion"})

    def test_a_savepoint_that_is_rolled_back(self):
        first = Story(1).did(1, 2, "begin").acquires(3, 4, scope="transaction").did(5, 6, "savepoint")
        first.acquires(7, 8, key="j", scope="transaction")
        first.failed(10, 11, "acquire", "57014", key="j", shared=False, scope="transaction", timeout=None)
        first.did(12, 13, "rollback_to").did(20, 21, "commit")
        self.assertEqual(judge(first, Story(2).acquires(9, 11, key="j").releases(30, 31, key="j")), set())
        self.assertEqual(judge(first, Story(2).acquires(9, 9, key="j").releases(30, 31, key="j")), {"exclusion"})
        self.assertEqual(judge(first, Story(2).acquires(9, 19).releases(30, 31)), {"exclusion"})


class Leases(unittest.TestCase):
    def test_until_its_deadline_from_before_sending(self):
        first = Story(1).leases(1, 5, 10, ttl=10)
        self.assertEqual(judge(first, Story(2).leases(2, 11, 20, ttl=100)), set())
        self.assertEqual(judge(first, Story(2).leases(2, 10, 20, ttl=100)), {"exclusion"})

    def test_renewal(self):
        first = Story(1).leases(1, 2, 10, ttl=10).renews(5, 6, 10)
        self.assertEqual(judge(first, Story(2).leases(7, 15, 20, ttl=100)), set())
        self.assertEqual(judge(first, Story(2).leases(7, 14, 20, ttl=100)), {"exclusion"})

    def test_renewal_with_another_ttl(self):
        longer = Story(1).leases(1, 2, 10, ttl=10).renews(5, 6, 10, ttl=50)
        self.assertEqual(judge(longer, Story(2).leases(7, 54, 20, ttl=100)), {"exclusion"})
        shorter = Story(1).leases(1, 2, 10, ttl=50).renews(5, 6, 10, ttl=10)
        self.assertEqual(judge(shorter, Story(2).leases(7, 15, 20, ttl=100)), set())

    def test_renewal_of_several(self):
        first = Story(1).leases(1, 2, 10, ttl=10, key="l").leases(1, 2, 11, ttl=10, key="m")
        first.did(5, 6, "renew_all", [10], tokens=[10, 11], ttl=50)
        self.assertEqual(judge(first), {"presence"})
        first = Story(1).leases(1, 2, 10, ttl=10).did(5, 6, "renew_all", [10], tokens=[10], ttl=50)
        self.assertEqual(judge(first, Story(2).leases(7, 54, 20, ttl=100)), {"exclusion"})

    def test_renewal_that_was_not_answered(self):
        shorter = Story(1).leases(1, 2, 10, ttl=50).asks(5, "renew", key="l", token=10, ttl=10).lost(6)
        self.assertEqual(judge(shorter, Story(2).leases(7, 15, 20, ttl=100)), set())
        longer = Story(1).leases(1, 2, 10, ttl=10).asks(5, "renew", key="l", token=10, ttl=50).lost(6)
        self.assertEqual(judge(longer, Story(2).leases(7, 11, 20, ttl=100)), set())

    def test_renewal_after_a_takeover(self):
        first = Story(1).leases(1, 2, 10, ttl=10).renews(30, 31, 10)
        self.assertEqual(judge(first), set())
        self.assertEqual(judge(first, Story(2).leases(12, 13, 20, ttl=5)), {"exclusion"})

    def test_checked_until_the_commit(self):
        first = Story(1).leases(1, 2, 10, ttl=5)
        first.did(3, 3, "begin").did(4, 5, "check", key="l", token=10).did(20, 22, "commit")
        self.assertEqual(judge(first, Story(2).leases(7, 21, 20, ttl=100)), set())
        self.assertEqual(judge(first, Story(2).leases(7, 19, 20, ttl=100)), {"exclusion"})

    def test_rolled_back(self):
        first = Story(1).did(1, 2, "begin").leases(3, 4, 10, ttl=50).did(5, 6, "rollback")
        self.assertEqual(judge(first, Story(2).leases(7, 8, 20, ttl=100)), set())
        self.assertEqual(judge(first.renews(9, 10, 10)), {"presence"})

    def test_committed(self):
        first = Story(1).did(1, 2, "begin").leases(3, 4, 10, ttl=50).did(5, 6, "commit")
        self.assertEqual(judge(first, Story(2).leases(7, 8, 20, ttl=100)), {"exclusion"})

    def test_released(self):
        first = Story(1).leases(1, 2, 10, ttl=50).did(5, 6, "release_lease", True, key="l", token=10)
        self.assertEqual(judge(first, Story(2).leases(4, 7, 20, ttl=100)), set())
        self.assertEqual(judge(first.renews(9, 10, 10)), {"presence"})

    def test_released_in_a_transaction(self):
        first = Story(1).leases(1, 2, 10, ttl=50).did(3, 4, "begin").did(5, 6, "release_lease", True, key="l", token=10)
        second = Story(2).leases(7, 8, 20, ttl=100)
        self.assertEqual(judge(first.did(10, 11, "rollback"), second), {"exclusion"})

    def test_lost_before_its_time(self):
        for call in ("renew", "holds_lease", "release_lease"):
            story = Story().leases(1, 2, 10, ttl=50).did(30, 31, call, False, key="l", token=10, ttl=None)
            self.assertEqual(judge(story), {"presence"})
        story = Story().leases(1, 2, 10, ttl=50).failed(30, 31, "check", "55000", key="l", token=10)
        self.assertEqual(judge(story), {"presence"})

    def test_as_many_as_slots(self):
        stories = [Story(i).leases(1, 2 + i, 10 + i, ttl=50) for i in (1, 2, 3)]
        self.assertEqual(judge(*stories, slots={"l": 3}), set())
        self.assertEqual(judge(*stories, slots={"l": 2}), {"exclusion"})


class Slots(unittest.TestCase):
    def test_each_of_them_once(self):
        self.assertEqual(judge(Story(1).slots(1, 2, 1), Story(2).slots(1, 2, 2)), set())

    def test_one_of_them_twice(self):
        stories = [Story(i).slots(1, 2, 1).did(5, 6, "release_slot", True, key="s", slot=1) for i in (1, 2)]
        self.assertEqual(judge(*stories), {"slots"})
        self.assertEqual(judge(Story().slots(1, 2, 1).slots(3, 4, 1)), {"slots"})

    def test_one_that_is_not_there(self):
        self.assertEqual(judge(Story().slots(1, 2, 3)), {"slots"})


class Presence(unittest.TestCase):
    def test_held(self):
        self.assertEqual(judge(Story().acquires(1, 2).did(3, 4, "held", True, key="k")), set())
        self.assertEqual(judge(Story().acquires(1, 2).did(3, 4, "held", False, key="k")), {"presence"})

    def test_nothing_is_left_by_failure(self):
        failed = dict(key="k", shared=False, scope="session", timeout=None)
        for held, broken in ((False, set()), (True, {"presence"})):
            story = Story().failed(1, 2, "acquire", "57014", **failed).did(3, 4, "held", held, key="k")
            self.assertEqual(judge(story), broken)
            self.assertEqual(judge(Story().acquires(1, 2, False, timeout=1).did(3, 4, "held", held, key="k")), broken)

    def test_releases(self):
        self.assertEqual(judge(Story().acquires(1, 2).releases(3, 4).releases(5, 6, False)), set())
        self.assertEqual(judge(Story().acquires(1, 2).releases(3, 4, False)), {"presence"})
        self.assertEqual(judge(Story().releases(3, 4, True)), {"presence"})

    def test_releases_of_all(self):
        self.assertEqual(judge(Story().acquires(1, 2).acquires(3, 4).did(5, 6, "release_all", 2)), set())
        self.assertEqual(judge(Story().acquires(1, 2).acquires(3, 4).did(5, 6, "release_all", 1)), {"presence"})

    def test_pipelines(self):
        how = dict(key="k", shared=False, scope="session", timeout=1)
        calls = [{"at": 1, "call": "acquire", **how}, {"at": 1, "call": "release", "key": "k", "shared": False}]
        for end in ("pipeline_end", "lost"):
            story = Story(1).add("pipeline", 1, calls=calls).did(1, 2, "acquire", True, **how)
            story.add(end, 9).connect(10, pid=1)
            others = Story(2).acquires(12, 13).releases(14, 15)
            self.assertEqual(judge(story, others), set())
        story = Story(1).add("pipeline", 1, calls=calls).did(1, 2, "acquire", True, **how)
        story.failed(1, 3, "release", "57014", key="k", shared=False).add("pipeline_end", 9)
        self.assertEqual(judge(story.did(10, 11, "release_all", 1)), set())
        story = Story(1).add("pipeline", 1, calls=calls).did(1, 2, "acquire", True, **how).add("pipeline_end", 9)
        self.assertEqual(judge(story.did(10, 11, "held", False, key="k")), {"presence"})

    def test_after_a_release_that_may_have_been(self):
        for value in (0, 1):
            story = Story().acquires(1, 2).failed(3, 4, "release", "57014", key="k", shared=False)
            self.assertEqual(judge(story.did(5, 6, "release_all", value)), set())


class Tokens(unittest.TestCase):
    def draws(self, number, start, token, more=None):
        story = Story(number).acquires(start, start + 1).did(start + 2, start + 3, "token", token, key="k")
        return story.did(start + 4, start + 5, "token", more or token, key="k").releases(start + 6, start + 7)

    def test_grow(self):
        self.assertEqual(judge(self.draws(1, 1, 10), self.draws(2, 11, 11)), set())

    def test_go_back(self):
        self.assertEqual(judge(self.draws(1, 1, 10), self.draws(2, 11, 9)), {"token"})
        self.assertEqual(judge(self.draws(1, 1, 10), floor=10), {"token"})

    def test_come_again(self):
        self.assertEqual(judge(self.draws(1, 1, 10), self.draws(2, 11, 10)), {"token"})

    def test_change_in_one_hold(self):
        self.assertEqual(judge(self.draws(1, 1, 10, 11)), {"token"})

    def test_change_with_the_hold(self):
        story = Story().acquires(1, 2).did(3, 4, "token", 10, key="k").releases(5, 6)
        self.assertEqual(judge(story.acquires(7, 8).did(9, 10, "token", 11, key="k")), set())

    def test_those_drawn_at_the_same_time(self):
        first = Story(1).leases(1, 9, 10, ttl=5, key="a")
        self.assertEqual(judge(first, Story(2).leases(2, 8, 9, ttl=5, key="b")), set())

    def test_of_leases_and_locks(self):
        self.assertEqual(judge(self.draws(1, 1, 10), Story(2).leases(20, 21, 9, ttl=5)), {"token"})

    def test_without_the_lock(self):
        self.assertEqual(judge(Story().did(1, 2, "token", 10, key="k")), {"presence"})


class LostUpdates(unittest.TestCase):
    def adds(self, story, start, value):
        story.did(start, start + 1, "read", value, key="k")
        return story.did(start + 2, start + 3, "write", key="k", new=value + 1)

    def test_one_after_the_other(self):
        self.assertEqual(judge(self.adds(Story(1), 1, 0), self.adds(Story(2), 6, 1)), set())

    def test_both_from_the_same(self):
        self.assertEqual(judge(self.adds(Story(1), 1, 0), self.adds(Story(2), 2, 0)), {"lost update"})

    def test_one_is_not_seen(self):
        self.assertEqual(judge(self.adds(Story(1), 1, 5), Story(2).did(9, 10, "read", 5, key="k")), {"lost update"})

    def test_one_that_was_rolled_back(self):
        story = self.adds(Story(1).did(0, 0, "begin"), 1, 0).did(5, 6, "rollback")
        self.assertEqual(judge(story, self.adds(Story(2), 7, 0)), set())

    def test_one_that_may_have_been(self):
        story = self.adds(Story(1).did(0, 0, "begin"), 1, 0).asks(5, "commit").lost(6)
        for value in (0, 1):
            self.assertEqual(judge(story, self.adds(Story(2), 7, value)), set())


class LostSessions(unittest.TestCase):
    def seen(self, at, story, killed=None):
        snapshot = {"asked": at, "at": at + 1, "pids": [PIDS + 1]}
        return judge(story, snapshots=[snapshot], killed=killed)

    def test_locks_become_free(self):
        story = Story(1).acquires(1, 2).lost(5)
        self.assertEqual(self.seen(5 + rules.GRACE, story), set())
        self.assertEqual(self.seen(6 + rules.GRACE, story), {"lost session"})

    def test_of_a_client_that_was_killed(self):
        self.assertEqual(self.seen(6 + rules.GRACE, Story(1).acquires(1, 2), {1: 5}), {"lost session"})

    def test_another_session_may_have_the_number(self):
        self.assertEqual(self.seen(6 + rules.GRACE, Story(1).acquires(1, 2).lost(5).connect(7)), set())


class Contention(unittest.TestCase):
    def test_pipelines(self):
        how = dict(key="k", shared=False, scope="session", timeout=1)
        story = Story().add("pipeline", 1, calls=[{"at": 1, "call": "acquire", **how}] * 2)
        story.did(1, 2, "acquire", True, **how)
        self.assertEqual(self.counts(story.lost(5), waits=2, timeouts=1), set())
        self.assertEqual(self.counts(story, waits=3, timeouts=1), {"contention"})

    def counts(self, story, waits=0, timeouts=0, deadlocks=0, cancels=0):
        counted = dict(waits=waits, timeouts=timeouts, deadlocks=deadlocks, cancels=cancels)
        return judge(story, counted={(what, False): number for what, number in counted.items()})

    def test_timeouts(self):
        story = Story().acquires(1, 2, False, timeout=1)
        self.assertEqual(self.counts(story, waits=1, timeouts=1), set())
        self.assertEqual(self.counts(story), {"contention"})
        self.assertEqual(self.counts(story, waits=2, timeouts=2), {"contention"})

    def test_those_who_do_not_wait(self):
        self.assertEqual(self.counts(Story().acquires(1, 2, False, timeout=0)), set())
        self.assertEqual(self.counts(Story().acquires(1, 2, False, timeout=0), waits=1, timeouts=1), {"contention"})

    def test_those_who_may_have_waited(self):
        for waits in (0, 1):
            self.assertEqual(self.counts(Story().acquires(1, 2), waits=waits), set())

    def test_deadlocks_and_cancels(self):
        how = dict(key="k", shared=False, scope="session", timeout=None)
        deadlock = Story().failed(1, 2, "acquire", "40P01", **how)
        self.assertEqual(self.counts(deadlock, waits=1, deadlocks=1), set())
        self.assertEqual(self.counts(deadlock, waits=1), {"contention"})
        cancel = Story().failed(1, 2, "acquire", "57014", **how)
        self.assertEqual(self.counts(cancel), set())
        self.assertEqual(self.counts(cancel, waits=1, cancels=1), set())
        self.assertEqual(self.counts(cancel, waits=2, cancels=2), {"contention"})


class Errors(unittest.TestCase):
    def test_those_that_may_happen(self):
        how = dict(key="k", shared=False, scope="session", timeout=None)
        self.assertEqual(judge(Story().failed(1, 2, "acquire", "40P01", **how), disturbed=False), set())
        self.assertEqual(judge(Story().failed(1, 2, "acquire", "57014", **how), disturbed=True), set())
        self.assertEqual(judge(Story().failed(1, 2, "acquire", "57014", **how), disturbed=False), {"error"})
        self.assertEqual(judge(Story().failed(1, 2, "acquire", "XX000", **how)), {"error"})


if __name__ == "__main__":
    unittest.main()
