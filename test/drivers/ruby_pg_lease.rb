# Ruby's pg. `connect` opens a connection without a type map: a boolean arrives as "t" or "f".

require "pg"
require_relative "lease_worker"

# [recipe]
def with_lease(connect, key, ttl: 30, timeout: nil)
  now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
  ask = lambda do |call, *values|
    conn = connect.call
    conn.exec_params(call, [key, *values]).getvalue(0, 0)
  ensure
    conn&.close
  end
  token = ask.("CALL pglock.lease($1, make_interval(secs => $2), make_interval(secs => $3))", ttl, timeout)
  renew = lambda do
    sent = now.call
    ask.("SELECT pglock.renew_lease($1, $2)", token) == "t" ? sent + 0.9 * ttl : 0
  end
  held_until = renew.call
  keeper = Thread.new do
    held_until = renew.call while sleep(ttl / 3.0)
  rescue PG::Error # the next renewal may succeed
    retry
  end
  yield token, -> { now.call < held_until }
ensure
  keeper&.kill
  ask.("SELECT pglock.release_lease($1, $2)", token) if token
end
# [end]

# the driver, for the tests
class RubyPgLeases
  def initialize
    @connect = -> { PG.connect }
  end

  def version
    PG::VERSION
  end

  def lease(key, **options, &work)
    with_lease(@connect, key, **options, &work)
  end

  def example
    connect = @connect
    # [example]
    with_lease(connect, "billing") do |token, held|
      conn = connect.call
      [42, 43].each do |order|
        raise "the lease could not be renewed" unless held.call
        conn.transaction do
          conn.exec_params("SELECT pglock.check_lease($1, $2)", ["billing", token])
          conn.exec_params("UPDATE orders SET state = 'paid' WHERE id = $1", [order])
        end
      end
    ensure
      conn&.close
    end
    # [end]
  end

  def write(key, token)
    conn = @connect.call
    conn.transaction do
      conn.exec_params("SELECT pglock.check_lease($1, $2)", [key, token])
      conn.exec_params("INSERT INTO written VALUES ($1)", [key])
    end
  ensure
    conn&.close
  end

  def sqlstate(error)
    raise error unless error.is_a?(PG::Error)
    error.result.error_field(PG::PG_DIAG_SQLSTATE)
  end
end

LeaseWorker.new(RubyPgLeases.new).main
