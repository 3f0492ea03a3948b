// Go's pgx. The lock is this pgx.Conn's: don't use the pool in its place, each statement may get another connection
// from there. A context that ends closes the connection, which frees its locks. A key that is an integer wants
// $1::bigint.

package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

// [recipe]
type lockOptions struct {
	Timeout *time.Duration // nil waits for ever
	Shared  bool
	Scope   string // session or transaction
}

func withLock(ctx context.Context, conn *pgx.Conn, key string, o lockOptions, work func() error) error {
	_, err := conn.Exec(ctx, "CALL pglock.lock($1, make_interval(secs => $2::bigint / 1e9), $3, $4)",
		key, o.Timeout, o.Shared, o.Scope)
	if err != nil {
		return err
	}
	release := ""
	if o.Scope == "session" {
		release = "SELECT pglock.release($1, $2)"
	}
	return holding(ctx, conn, work, release, key, o.Shared)
}

func holding(ctx context.Context, conn *pgx.Conn, work func() error, release string, values ...any) (err error) {
	if release != "" {
		defer func() {
			if failed := giveBack(conn, release, values...); err == nil {
				err = failed
			}
		}()
	}
	if err = ctx.Err(); err != nil { // it may have closed the connection
		return err
	}
	return work()
}

// Not by the caller's context, which may have ended.
func giveBack(conn *pgx.Conn, release string, values ...any) (err error) {
	ctx := context.Background()
	if conn.PgConn().TxStatus() != 'I' {
		_, err = conn.Exec(ctx, "ROLLBACK")
	}
	if err == nil {
		_, err = conn.Exec(ctx, release, values...)
	}
	if err != nil {
		conn.Close(ctx)
	}
	return err
}

// [end]

// [slot recipe]
func withSlot(ctx context.Context, conn *pgx.Conn, key string, slots int, timeout *time.Duration, work func(slot int) error) error {
	take := "CALL pglock.slot($1, $2, make_interval(secs => $3::bigint / 1e9))"
	var slot int
	if err := conn.QueryRow(ctx, take, key, slots, timeout).Scan(&slot); err != nil {
		return err
	}
	return holding(ctx, conn, func() error { return work(slot) }, "SELECT pglock.release_slot($1, $2)", key, slot)
}

// [end]

type pgxDriver struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn
}

func (d *pgxDriver) connect() (err error) {
	d.conn, err = pgx.ConnectConfig(context.Background(), d.config)
	return err
}

func (d *pgxDriver) example() error {
	ctx, conn := context.Background(), d.conn
	// [example]
	timeout := 5 * time.Second
	return withLock(ctx, conn, "order:42", lockOptions{Timeout: &timeout, Scope: "session"}, func() error {
		_, err := conn.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE id = 42")
		return err
	})
	// [end]
}

func (d *pgxDriver) lock(ctx context.Context, key string, timeout *time.Duration, shared bool, scope string, work func() error) error {
	return withLock(ctx, d.conn, key, lockOptions{timeout, shared, scope}, work)
}

func (d *pgxDriver) slotExample() error {
	ctx, conn := context.Background(), d.conn
	// [slot example]
	timeout := 5 * time.Second
	return withSlot(ctx, conn, "workers", 5, &timeout, func(slot int) error {
		_, err := conn.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE mod(id, 5) + 1 = $1", slot)
		return err
	})
	// [end]
}

func (d *pgxDriver) slot(ctx context.Context, key string, slots int, timeout *time.Duration, work func(int) error) error {
	return withSlot(ctx, d.conn, key, slots, timeout, work)
}

func (d *pgxDriver) execute(sql string) error {
	_, err := d.conn.Exec(context.Background(), sql)
	return err
}

func (d *pgxDriver) version() string { return "" }
func (d *pgxDriver) begin() error    { return d.execute("BEGIN") }
func (d *pgxDriver) commit() error   { return d.execute("COMMIT") }
func (d *pgxDriver) rollback() error { return d.execute("ROLLBACK") }

func (d *pgxDriver) run(statement string) (value string, err error) {
	var answer *string
	err = d.conn.QueryRow(context.Background(), statement).Scan(&answer)
	if answer == nil {
		return "", err
	}
	return *answer, err
}

func (d *pgxDriver) trap(string) (string, error) {
	if _, err := d.conn.Exec(context.Background(), "CALL pglock.lock($1::bigint)", 42); err != nil {
		return "", err
	}
	if _, err := d.conn.Exec(context.Background(), "CALL pglock.lock($1)", 42); err != nil && d.sqlstate(err) == "" {
		return "not sent", nil
	}
	return "sent", nil
}

func (d *pgxDriver) sqlstate(err error) string {
	var answered *pgconn.PgError
	if errors.As(err, &answered) {
		return answered.Code
	}
	return ""
}

func main() {
	config, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		panic(err)
	}
	config.PreferSimpleProtocol = len(os.Args) > 1 && os.Args[1] == "unprepared"
	serve(&pgxDriver{config: config})
}
