# ActiveRecord. Don't ask for a lock by select_value("SELECT pglock.acquire(...)"): the query cache, which is on in
# each request, answers the second time without the server.

require "active_record"
require_relative "worker"

# [recipe]
def with_lock(conn, key, timeout: nil, shared: false, scope: "session")
  outer = conn.open_transactions
  conn.exec_query("CALL pglock.lock($1, make_interval(secs => $2), $3, $4)", "Lock", [key, timeout, shared, scope])
  held = true
  conn.clear_query_cache # what was read before the lock may be out of date
  yield
rescue ActiveRecord::StatementInvalid => error
  held = false if held.nil? && error.cause.is_a?(PG::ServerError)
  raise
ensure
  conn.throw_away! if held.nil? # interrupted: the server goes on, and may grant the lock
  release(conn, key, shared, outer) if held && scope == "session"
end

def release(conn, key, shared, outer)
  conn.rollback_transaction while conn.open_transactions > outer
  conn.exec_query("SELECT pglock.release($1, $2)", "Release", [key, shared])
  released = true
ensure
  conn.throw_away! unless released
end
# [end]

# the driver, for the tests
class ActiveRecordDriver
  def initialize(prepared)
    ActiveRecord::Base.establish_connection(adapter: "postgresql", prepared_statements: prepared)
    conn.extend(Preparing) if prepared
  end

  # a connection that was thrown away is replaced by the pool's next one
  def reconnect; end

  def version
    ActiveRecord::VERSION::STRING
  end

  def lock(key, **options, &work)
    with_lock(conn, key, **options, &work)
  end

  def example
    conn = self.conn
    # [example]
    with_lock(conn, "order:42", timeout: 5) do
      conn.execute("UPDATE orders SET state = 'paid' WHERE id = 42")
    end
    # [end]
  end

  def transaction(&work)
    conn.transaction(&work)
  end

  def begin
    conn.begin_transaction(joinable: false)
  end

  def run(sql)
    conn.exec_query(sql).rows[0][0]
  end

  def trap(key)
    take = "SELECT pglock.acquire(#{conn.quote(key)})"
    conn.cache do
      conn.select_value(take)
      conn.exec_query("SELECT pglock.release_all()")
      "#{conn.select_value(take)}, #{conn.exec_query("SELECT pglock.held($1)", "Held", [key]).rows[0][0]}"
    end
  end

  def sqlstate(error)
    error.cause.result.error_field(PG::PG_DIAG_SQLSTATE)
  end

  def conn
    ActiveRecord::Base.connection
  end

  # Prepares what has parameters.
  module Preparing
    def exec_query(sql, name = nil, binds = [])
      super(sql, name, binds, prepare: binds.any?)
    end
  end
end

Worker.new(ActiveRecordDriver.new(ARGV.include?("prepared"))).main
