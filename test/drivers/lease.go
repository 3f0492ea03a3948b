// What the recipes for leases of Go's drivers share. When the lease can't be renewed, the context of the work is
// cancelled.

package main

import (
	"context"
	"math"
	"time"
)

// [recipe]
// Runs a call, and stores its one value in what `answer` points to.
type query func(ctx context.Context, answer any, call string, values ...any) error

// A timeout of nil waits for ever.
func withLease(ctx context.Context, ask query, key string, ttl time.Duration, timeout *time.Duration,
	work func(ctx context.Context, token int64) error) error {
	var token int64
	take := "CALL pglock.lease($1, make_interval(secs => $2::bigint / 1e9), make_interval(secs => $3::bigint / 1e9))"
	if err := ask(ctx, &token, take, key, ttl, timeout); err != nil {
		return err
	}
	defer ask(context.Background(), new(bool), "SELECT pglock.release_lease($1, $2)", key, token)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	end := time.AfterFunc(math.MaxInt64, stop) // renewals set the time
	var renew func() error
	renew = func() error {
		sent, renewed := time.Now(), false
		err := ask(ctx, &renewed, "SELECT pglock.renew_lease($1, $2)", key, token)
		if renewed {
			end.Reset(time.Until(sent.Add(ttl / 10 * 9)))
		} else if err == nil {
			stop()
		}
		if ctx.Err() == nil {
			time.AfterFunc(ttl/3, func() { renew() }) // if one fails, the next may succeed
		}
		return err
	}
	if err := renew(); err != nil {
		return err
	}
	return work(ctx, token)
}

// [end]

func example(ctx context.Context) error {
	// [example]
	return withLease(ctx, ask, "billing", 30*time.Second, nil, func(ctx context.Context, token int64) error {
		for _, order := range []int{42, 43} {
			if err := pay(ctx, order, token); err != nil {
				return err
			}
		}
		return nil
	})
	// [end]
}
