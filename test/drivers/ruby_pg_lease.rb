# Ruby's pg. `connect` opens a connection without a type map: a boolean arrives as "t" or "f".

require "pg"
require_relative "worker"

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

def example(connect)
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

# a worker: see test/perl/Worker.pm
class LeaseWorker < Worker
  # Ends the block of a lease that may not be held any more.
  class Lost < Failure; end

  def initialize
    @connect = -> { PG.connect }
  end

  def main
    $stdout.sync = true
    say("ready", PG::VERSION)
    block
  end

  private

  def sqlstate(error)
    raise error unless error.is_a?(PG::Error)
    error.result.error_field(PG::PG_DIAG_SQLSTATE)
  end

  def do_lease(key, ttl, timeout)
    seconds = timeout.to_f / 1000 unless timeout.empty?
    with_lease(@connect, key, ttl: ttl.to_f / 1000, timeout: seconds) do |token, held|
      @held = held
      say("held", token)
      block
    end
    say("released")
  rescue Lost
    say("lost")
  end

  def do_lose
    sleep(0.01) while @held.call
    raise Lost
  end

  def do_write(key, token)
    conn = @connect.call
    conn.transaction do
      conn.exec_params("SELECT pglock.check_lease($1, $2)", [key, token])
      conn.exec_params("INSERT INTO written VALUES ($1)", [key])
    end
    say("written")
  ensure
    conn&.close
  end

  def do_example
    example(@connect)
    say("done")
  end
end

LeaseWorker.new.main
