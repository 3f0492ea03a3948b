# ActiveRecord. `pool` is a connection_pool: the timer takes a connection from it for each renewal. Take a lease outside
# of a transaction, since the timer's connection does not see what is not committed.

require "active_record"
require "concurrent/timer_task"
require_relative "lease_worker"

# [recipe]
def with_lease(pool, key, ttl: 30, timeout: nil)
  now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
  ask = lambda do |call, *values|
    pool.with_connection do |conn|
      conn.clear_query_cache # what was read before the lease may be out of date
      conn.exec_query(call, "Lease", [key, *values]).rows[0][0]
    end
  end
  token = ask.("CALL pglock.lease($1, make_interval(secs => $2), make_interval(secs => $3))", ttl, timeout)
  renew = lambda do
    sent = now.call
    ask.("SELECT pglock.renew_lease($1, $2)", token) ? sent + 0.9 * ttl : 0
  end
  held_until = renew.call
  # if a renewal fails, the next may succeed
  keeper = Concurrent::TimerTask.execute(execution_interval: ttl / 3.0) { held_until = renew.call }
  yield token, -> { now.call < held_until }
ensure
  keeper&.shutdown
  ask.("SELECT pglock.release_lease($1, $2)", token) if token
end
# [end]

class Order < ActiveRecord::Base; end

# the driver, for the tests
class ActiveRecordLeases
  def initialize
    @pool = ActiveRecord::Base.establish_connection(adapter: "postgresql")
  end

  def version
    ActiveRecord::VERSION::STRING
  end

  def lease(key, **options, &work)
    with_lease(@pool, key, **options, &work)
  end

  def example
    # [example]
    with_lease(Order.connection_pool, "billing") do |token, held|
      [42, 43].each do |order|
        raise "the lease could not be renewed" unless held.call
        Order.transaction do
          # as text, since ActiveRecord complains of the type void
          Order.connection.exec_query("SELECT pglock.check_lease($1, $2)::text", "Check", ["billing", token])
          Order.where(id: order).update_all(state: "paid")
        end
      end
    end
    # [end]
  end

  def write(key, token)
    @pool.with_connection do |conn|
      conn.transaction do
        conn.exec_query("SELECT pglock.check_lease($1, $2)::text", "Check", [key, token])
        conn.exec_query("INSERT INTO written VALUES ($1)", "Write", [key])
      end
    end
  end

  def sqlstate(error)
    raise error unless error.is_a?(ActiveRecord::StatementInvalid)
    error.cause.result.error_field(PG::PG_DIAG_SQLSTATE)
  end
end

LeaseWorker.new(ActiveRecordLeases.new).main
