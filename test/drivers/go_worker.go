// The Go drivers' half of the workers' protocol (see test/perl/Worker.pm).

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A connection, by the driver.
type session interface {
	connect() error
	version() string
	lock(ctx context.Context, key string, timeout *time.Duration, shared bool, scope string, work func() error) error
	example() error
	begin() error
	trap(key string) (string, error)
	commit() error
	rollback() error
	run(sql string) (string, error)
	// what the server says of the error, or nothing
	sqlstate(err error) string
}

// ... that has a recipe for slots.
type slotSession interface {
	slot(ctx context.Context, key string, slots int, timeout *time.Duration, work func(slot int) error) error
	slotExample() error
}

var (
	lines   = bufio.NewScanner(os.Stdin)
	failure = errors.New("told to fail")
)

func say(words ...string) {
	fmt.Println(strings.Join(words, "\t"))
}

func serve(d session) {
	if err := d.connect(); err != nil {
		panic(err)
	}
	say("ready", d.version())
	for more := true; more; {
		var err error
		if more, err = block(d); err != nil {
			say("failed")
			more = true
		}
	}
}

// Does what it is told until the end of the block that it is in: true; or of the input: false.
func block(d session) (bool, error) {
	for lines.Scan() {
		words := strings.Split(lines.Text(), "\t")
		if words[0] == "end" {
			return true, nil
		}
		err := command(d, words[0], words[1:])
		if errors.Is(err, failure) {
			return true, err
		}
		if err != nil {
			if d.sqlstate(err) == "" {
				fmt.Fprintln(os.Stderr, err)
			}
			say("error", d.sqlstate(err))
		}
	}
	return false, nil
}

func command(d session, name string, values []string) error {
	inner := func(said ...string) func() error {
		return func() error {
			say(said...)
			_, err := block(d)
			return err
		}
	}
	switch name {
	case "lock":
		held := inner("held")
		return and(d.lock(context.Background(), values[0], milliseconds(values[2]), values[3] == "shared", values[4], held), "released")
	case "slot":
		slots, _ := strconv.Atoi(values[1])
		held := func(slot int) error { return inner("held", strconv.Itoa(slot))() }
		return and(d.(slotSession).slot(context.Background(), values[0], slots, milliseconds(values[2]), held), "released")
	case "slot_example":
		return and(d.(slotSession).slotExample(), "done")
	case "example":
		return and(d.example(), "done")
	case "transaction":
		if err := d.begin(); err != nil {
			return err
		}
		if err := inner("begun")(); err != nil {
			d.rollback()
			return err
		}
		return and(d.commit(), "committed")
	case "begin":
		return and(d.begin(), "begun")
	case "give_up":
		return giveUp(d, values[0])
	case "interrupt":
		return interrupt(d, values[1], values[2], values[3])
	case "trap":
		value, err := d.trap(values[0])
		return and(err, "trapped", value)
	case "run":
		value, err := d.run(values[0])
		return and(err, "row", value)
	default:
		return failure
	}
}

// Gives up by a context that ends.
func giveUp(d session, key string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGUSR2)
	defer stop()
	err := d.lock(ctx, key, nil, false, "session", func() error { return failure })
	if ctx.Err() == nil {
		return err
	}
	left, err := d.run("SELECT pg_backend_pid()::text")
	if err != nil {
		left = "none"
	}
	return and(d.connect(), "gave up", left)
}

// Has contexts end while it takes the lock, and counts what comes of it. The driver closes the connection by itself.
func interrupt(d session, rounds, microseconds, manner string) error {
	interrupted, left, closed := 0, 0, 0
	count, _ := strconv.Atoi(rounds)
	longest, _ := strconv.Atoi(microseconds)
	for ; count > 0; count-- {
		ctx, stop := context.WithTimeout(context.Background(), time.Duration(rand.Intn(longest))*time.Microsecond)
		err := takeOnce(ctx, d, manner)
		stop()
		if err == nil {
			continue
		}
		interrupted++
		locks, err := d.run("SELECT count(*)::text FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'")
		if err != nil {
			closed++
			if err = d.connect(); err != nil {
				return err
			}
		} else if locks != "0" {
			left++
		}
	}
	say("interrupted", strconv.Itoa(interrupted), strconv.Itoa(left), strconv.Itoa(closed))
	return nil
}

func takeOnce(ctx context.Context, d session, manner string) error {
	if manner == "slot" {
		return d.(slotSession).slot(ctx, "raced", 1, nil, func(int) error { return nil })
	}
	return d.lock(ctx, "raced", nil, false, "session", func() error { return nil })
}

func milliseconds(text string) *time.Duration {
	number, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	duration := time.Duration(number) * time.Millisecond
	return &duration
}

// Says the words if there is no error.
func and(err error, words ...string) error {
	if err == nil {
		say(words...)
	}
	return err
}
