// Go's database/sql with lib/pq. The lock is this sql.Conn's: don't use the sql.DB in its place, each statement may
// get another connection from there. A context that ends closes the connection, which frees its locks. Don't send
// a time.Duration as an interval: its nanoseconds would be read as seconds.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/lib/pq"
)

// [recipe]
type lockOptions struct {
	Timeout *time.Duration // nil waits for ever
	Shared  bool
	Scope   string // session or transaction
}

func withLock(ctx context.Context, conn *sql.Conn, key string, o lockOptions, work func() error) (err error) {
	_, err = conn.ExecContext(ctx, "CALL pglock.lock($1, make_interval(secs => $2::bigint / 1e9), $3, $4)",
		key, o.Timeout, o.Shared, o.Scope)
	if err != nil {
		return err
	}
	done := false
	if o.Scope == "session" {
		defer func() {
			if failed := release(conn, key, o.Shared, done); err == nil {
				err = failed
			}
		}()
	}
	if err = ctx.Err(); err == nil { // if it has ended, it may have closed the connection
		err = work()
	}
	done = err == nil
	return err
}

// Not by the caller's context, which may have ended. Without a transaction ROLLBACK does nothing.
func release(conn *sql.Conn, key string, shared, done bool) (err error) {
	ctx := context.Background()
	if !done {
		_, err = conn.ExecContext(ctx, "ROLLBACK")
	}
	if err == nil {
		_, err = conn.ExecContext(ctx, "SELECT pglock.release($1, $2)", key, shared)
	}
	if err != nil {
		conn.Raw(func(any) error { return driver.ErrBadConn }) // closes it
	}
	return err
}

// [end]

type libPq struct {
	db   *sql.DB
	conn *sql.Conn
}

func (d *libPq) connect() (err error) {
	d.conn, err = d.db.Conn(context.Background())
	return err
}

func (d *libPq) example() error {
	ctx, conn := context.Background(), d.conn
	// [example]
	timeout := 5 * time.Second
	return withLock(ctx, conn, "order:42", lockOptions{Timeout: &timeout, Scope: "session"}, func() error {
		_, err := conn.ExecContext(ctx, "UPDATE orders SET state = 'paid' WHERE id = 42")
		return err
	})
	// [end]
}

func (d *libPq) lock(ctx context.Context, key string, timeout *time.Duration, shared bool, scope string, work func() error) error {
	return withLock(ctx, d.conn, key, lockOptions{timeout, shared, scope}, work)
}

func (d *libPq) execute(sql string) error {
	_, err := d.conn.ExecContext(context.Background(), sql)
	return err
}

func (d *libPq) version() string { return "" }
func (d *libPq) begin() error    { return d.execute("BEGIN") }
func (d *libPq) commit() error   { return d.execute("COMMIT") }
func (d *libPq) rollback() error { return d.execute("ROLLBACK") }

func (d *libPq) run(statement string) (value string, err error) {
	var answer sql.NullString
	err = d.conn.QueryRowContext(context.Background(), statement).Scan(&answer)
	return answer.String, err
}

func (d *libPq) trap(string) (seconds string, err error) {
	err = d.conn.QueryRowContext(context.Background(), "SELECT extract(epoch FROM $1::interval)::bigint", time.Millisecond).
		Scan(&seconds)
	return seconds + " s", err
}

func (d *libPq) sqlstate(err error) string {
	var answered *pq.Error
	if errors.As(err, &answered) {
		return string(answered.Code)
	}
	return ""
}

func main() {
	db, err := sql.Open("postgres", "sslmode=disable")
	if err != nil {
		panic(err)
	}
	serve(&libPq{db: db})
}
