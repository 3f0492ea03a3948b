# ActiveRecord. `pool` is a `connection_pool`, with a connection to spare for the thread that renews the lease. Take a
# lease outside of a transaction: that thread does not see what is not committed.

require "active_record"
require_relative "lease_worker"

pool = ActiveRecord::Base.establish_connection(adapter: "postgresql")

class Order < ActiveRecord::Base; end

# [recipe]
ask = lambda do |call, values|
  pool.with_connection do |conn|
    conn.clear_query_cache # what was read before the lease may be out of date
    conn.exec_query(call, "Lease", values).rows[0][0]
  end
end

write = lambda do |key, token, &work|
  pool.with_connection do |conn|
    conn.transaction do
      # as text: ActiveRecord complains of the type void
      conn.exec_query("SELECT pglock.check_lease($1, $2)::text", "Check", [key, token])
      work.call(conn)
    end
  end
end
# [end]

# [example]
pay = lambda do |order, token|
  write.call("billing", token) { Order.where(id: order).update_all(state: "paid") }
end
# [end]

LeaseWorker.new(
  version: ActiveRecord::VERSION::STRING,
  ask: ask,
  write: write,
  pay: pay,
  insert: ->(conn, key) { conn.exec_query("INSERT INTO written VALUES ($1)", "Insert", [key]) },
  sqlstate: lambda do |error|
    error.cause.result.error_field(PG::PG_DIAG_SQLSTATE) if error.is_a?(ActiveRecord::StatementInvalid)
  end
).main
