// The Go drivers' half of the protocol of those who take leases (see test/perl/Worker.pm). A driver's file has: ask and
// pay, for its recipe; insert, which writes into the table `written` under the lease; sqlstate, of the server's errors.

package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

var lost = errors.New("the lease may not be held any more")

func serveLeases() {
	say("ready", "")
	if err := leaseBlock(context.Background()); err != nil {
		panic(err)
	}
}

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
			if sqlstate(err) == "" {
				return err
			}
			say("error", sqlstate(err))
		}
	}
	return nil
}

func leaseCommand(ctx context.Context, words []string) error {
	switch words[0] {
	case "lease":
		return takeLease(ctx, words[1], *milliseconds(words[2]), milliseconds(words[3]))
	case "write":
		token, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return err
		}
		return and(insert(ctx, words[1], token), "written")
	case "example":
		return and(example(ctx), "done")
	default:
		return failure
	}
}

func takeLease(ctx context.Context, key string, ttl time.Duration, timeout *time.Duration) error {
	err := withLease(ctx, ask, key, ttl, timeout, func(ctx context.Context, token int64) error {
		say("held", strconv.FormatInt(token, 10))
		return leaseBlock(ctx)
	})
	if err == lost {
		say("lost")
		return nil
	}
	return and(err, "released")
}
