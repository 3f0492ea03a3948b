// Go's database/sql with lib/pq.

package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/lib/pq"
)

var db *sql.DB

// [recipe]
func ask(ctx context.Context, answer any, call string, values ...any) error {
	return db.QueryRowContext(ctx, call, values...).Scan(answer)
}

func write(ctx context.Context, key string, token int64, work func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if _, err := tx.ExecContext(ctx, "SELECT pglock.check_lease($1, $2)", key, token); err != nil {
		return err
	}
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// [end]

// [example]
func pay(ctx context.Context, order int, token int64) error {
	return write(ctx, "billing", token, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1", order)
		return err
	})
}

// [end]

func insert(ctx context.Context, key string, token int64) error {
	return write(ctx, key, token, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO written VALUES ($1)", key)
		return err
	})
}

func sqlstate(err error) string {
	var answered *pq.Error
	if errors.As(err, &answered) {
		return string(answered.Code)
	}
	return ""
}

func main() {
	var err error
	db, err = sql.Open("postgres", "sslmode=disable")
	if err != nil {
		panic(err)
	}
	serveLeases()
	db.Close()
}
