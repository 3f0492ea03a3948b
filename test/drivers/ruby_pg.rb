# Ruby's pg. A connection is in autocommit, and `conn.transaction` begins and commits. Don't test what
# pglock.acquire answers without a type map: false arrives as "f", which is true.

require "pg"
require_relative "worker"

# [recipe]
def with_lock(conn, key, timeout: nil, shared: false, scope: "session")
  conn.exec_params("CALL pglock.lock($1, make_interval(secs => $2), $3, $4)", [key, timeout, shared, scope])
  held = true
  yield
rescue PG::ServerError
  held ||= false
  raise
ensure
  conn.close if held.nil? # interrupted: the server goes on, and may grant the lock
  release(conn, key, shared) if held && scope == "session"
end

def release(conn, key, shared)
  conn.exec("ROLLBACK") unless conn.transaction_status == PG::PQTRANS_IDLE
  conn.exec_params("SELECT pglock.release($1, $2)", [key, shared])
  released = true
ensure
  conn.close unless released || conn.finished?
end
# [end]

# the driver, for the tests
class RubyPg
  def initialize(prepared)
    @prepared = prepared
    connect
  end

  def connect
    @conn = PG.connect
    @conn.extend(Preparing) if @prepared
  end

  def reconnect
    connect if @conn.finished?
  end

  def version
    PG::VERSION
  end

  def lock(key, **options, &work)
    with_lock(@conn, key, **options, &work)
  end

  def example
    conn = @conn
    # [example]
    with_lock(conn, "order:42", timeout: 5) do
      conn.exec("UPDATE orders SET state = 'paid' WHERE id = 42")
    end
    # [end]
  end

  def transaction(&work)
    @conn.transaction { work.call }
  end

  def begin
    @conn.exec("BEGIN")
  end

  def run(sql)
    @conn.exec(sql).getvalue(0, 0)
  end

  def trap(key)
    other = PG.connect
    other.exec_params("SELECT pglock.acquire($1)", [key])
    @conn.exec_params("SELECT pglock.try($1)", [key]).getvalue(0, 0) ? "true" : "false"
  ensure
    other.close
  end

  def sqlstate(error)
    error.result.error_field(PG::PG_DIAG_SQLSTATE)
  end

  # Prepares what has parameters.
  module Preparing
    def exec_params(sql, values)
      @names ||= Hash.new { |names, text| names[text] = "statement_#{names.size}".tap { |name| prepare(name, text) } }
      exec_prepared(@names[sql], values)
    end
  end
end

Worker.new(RubyPg.new(ARGV.include?("prepared"))).main
