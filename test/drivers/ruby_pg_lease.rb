# Ruby's pg. `connect` opens a connection, which is closed after use.

require "pg"
require_relative "lease_worker"

connect = -> { PG.connect }

# [recipe]
ask = lambda do |call, values|
  conn = connect.call
  conn.exec_params(call, values).getvalue(0, 0)
ensure
  conn&.close
end

write = lambda do |key, token, &work|
  conn = connect.call
  conn.transaction do
    conn.exec_params("SELECT pglock.check_lease($1, $2)", [key, token])
    work.call(conn)
  end
ensure
  conn&.close
end
# [end]

# [example]
pay = lambda do |order, token|
  write.call("billing", token) do |conn|
    conn.exec_params("UPDATE orders SET state = 'paid' WHERE id = $1", [order])
  end
end
# [end]

LeaseWorker.new(
  version: PG::VERSION,
  ask: ask,
  write: write,
  pay: pay,
  insert: ->(conn, key) { conn.exec_params("INSERT INTO written VALUES ($1)", [key]) },
  sqlstate: ->(error) { error.result.error_field(PG::PG_DIAG_SQLSTATE) if error.is_a?(PG::ServerError) }
).main
