# What the recipes for leases of Ruby's drivers share. `ask` runs a call outside a transaction, and returns its one
# value. Times are in seconds.

# [recipe]
def with_lease(ask, key, ttl: 30, timeout: nil)
  now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
  take = "CALL pglock.lease($1, make_interval(secs => $2), make_interval(secs => $3))"
  token = ask.call(take, [key, ttl, timeout])
  renew = lambda do
    sent = now.call
    renewed = ask.call("SELECT pglock.renew_lease($1, $2)::text", [key, token]) # not every driver knows booleans
    renewed == "true" ? sent + 0.9 * ttl : 0
  end
  held_until = renew.call
  done = false
  Thread.new do
    held_until = renew.call until sleep(ttl / 3.0) && done
  rescue StandardError # the next renewal may succeed
    retry
  end
  yield token, -> { now.call < held_until }
ensure
  done = true
  ask.call("SELECT pglock.release_lease($1, $2)", [key, token]) if token
end
# [end]

def example(ask, pay)
  # [example]
  with_lease(ask, "billing") do |token, held|
    [42, 43].each do |order|
      raise "the lease could not be renewed" unless held.call
      pay.call(order, token)
    end
  end
  # [end]
end
