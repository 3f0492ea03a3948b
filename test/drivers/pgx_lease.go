// Go's pgx, with its pool.

package main

import (
	"context"
	"errors"
	"os"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var pool *pgxpool.Pool

// [recipe]
func ask(ctx context.Context, answer any, call string, values ...any) error {
	return pool.QueryRow(ctx, call, values...).Scan(answer)
}

func write(ctx context.Context, key string, token int64, work func(tx pgx.Tx) error) error {
	return pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pglock.check_lease($1, $2)", key, token); err != nil {
			return err
		}
		return work(tx)
	})
}

// [end]

// [example]
func pay(ctx context.Context, order int, token int64) error {
	return write(ctx, "billing", token, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1", order)
		return err
	})
}

// [end]

func insert(ctx context.Context, key string, token int64) error {
	return write(ctx, key, token, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO written VALUES ($1)", key)
		return err
	})
}

func sqlstate(err error) string {
	var answered *pgconn.PgError
	if errors.As(err, &answered) {
		return answered.Code
	}
	return ""
}

func main() {
	var err error
	pool, err = pgxpool.Connect(context.Background(), "sslmode=disable host="+os.Getenv("PGHOST"))
	if err != nil {
		panic(err)
	}
	serveLeases()
	pool.Close()
}
