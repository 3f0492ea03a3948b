// Go's pgx, with its pool. When the lease can't be renewed, the context of the work is cancelled.

package main

import (
	"context"
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// [recipe]
// A timeout of nil waits for ever.
func withLease(ctx context.Context, pool *pgxpool.Pool, key string, ttl time.Duration, timeout *time.Duration,
	work func(ctx context.Context, token int64) error) error {
	var token int64
	take := "CALL pglock.lease($1, make_interval(secs => $2::bigint / 1e9), make_interval(secs => $3::bigint / 1e9))"
	if err := pool.QueryRow(ctx, take, key, ttl, timeout).Scan(&token); err != nil {
		return err
	}
	defer pool.Exec(context.Background(), "SELECT pglock.release_lease($1, $2)", key, token)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	end := time.AfterFunc(math.MaxInt64, stop) // renewals set the time
	renew := func() error {
		sent, renewed := time.Now(), false
		err := pool.QueryRow(ctx, "SELECT pglock.renew_lease($1, $2)", key, token).Scan(&renewed)
		if renewed {
			end.Reset(time.Until(sent.Add(ttl / 10 * 9)))
		} else if err == nil {
			stop()
		}
		return err
	}
	if err := renew(); err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(ttl / 3):
				renew() // if it fails, the next one may succeed
			}
		}
	}()
	return work(ctx, token)
}

// [end]

func example(ctx context.Context, pool *pgxpool.Pool) error {
	// [example]
	return withLease(ctx, pool, "billing", 30*time.Second, nil, func(ctx context.Context, token int64) error {
		for _, order := range []int{42, 43} {
			err := pool.BeginFunc(ctx, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SELECT pglock.check_lease($1, $2)", "billing", token); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1", order)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	// [end]
}

// a worker: see test/perl/Worker.pm
var (
	pool *pgxpool.Pool
	lost = errors.New("the lease may not be held any more")
)

// Does what it is told until the end of the block that it is in.
func leaseBlock(ctx context.Context) error {
	for lines.Scan() {
		words := strings.Split(lines.Text(), "\t")
		switch words[0] {
		case "end":
			return nil
		case "lose":
			<-ctx.Done()
			return lost
		}
		if err := leaseCommand(ctx, words); err != nil {
			var answered *pgconn.PgError
			if !errors.As(err, &answered) {
				return err
			}
			say("error", answered.Code)
		}
	}
	return nil
}

func leaseCommand(ctx context.Context, words []string) error {
	switch words[0] {
	case "lease":
		return takeLease(ctx, words[1], *milliseconds(words[2]), milliseconds(words[3]))
	case "write":
		return write(ctx, words[1], words[2])
	case "example":
		if err := example(ctx, pool); err != nil {
			return err
		}
		say("done")
	}
	return nil
}

func takeLease(ctx context.Context, key string, ttl time.Duration, timeout *time.Duration) error {
	err := withLease(ctx, pool, key, ttl, timeout, func(ctx context.Context, token int64) error {
		say("held", strconv.FormatInt(token, 10))
		return leaseBlock(ctx)
	})
	if err == lost {
		say("lost")
		return nil
	}
	if err == nil {
		say("released")
	}
	return err
}

func write(ctx context.Context, key string, token string) error {
	number, err := strconv.ParseInt(token, 10, 64)
	if err != nil {
		return err
	}
	err = pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pglock.check_lease($1, $2)", key, number); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO written VALUES ($1)", key)
		return err
	})
	if err == nil {
		say("written")
	}
	return err
}

func milliseconds(text string) *time.Duration {
	number, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	duration := time.Duration(number) * time.Millisecond
	return &duration
}

func main() {
	var err error
	pool, err = pgxpool.Connect(context.Background(), "sslmode=disable host="+os.Getenv("PGHOST"))
	if err != nil {
		panic(err)
	}
	say("ready", "")
	if err := leaseBlock(context.Background()); err != nil {
		panic(err)
	}
	pool.Close()
}
