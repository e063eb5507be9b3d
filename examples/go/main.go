// Command consumer follows one feed of gex-levels-connector without a gap or a
// duplicate, and without storing an offset.
//
// It restores the present state of every symbol from the topic `current`, then follows
// `changes`. An event and the state after it are one transaction, but a reader may learn
// of the commit in one topic before the other. To miss no event in between, run keeps
// this order:
//
//  1. Note where the committed events of `changes` end (E). Only then note where
//     `current` ends (H), open transactions included.
//  2. Read the committed records of `current` up to H. A transaction with an event below
//     E has its state below H, because it was committed after all its records were
//     written. So every change below E is restored.
//  3. Follow `changes` from E. Skip events that are not newer than the restored
//     sequence, and check that the sequence then grows by one. Follow `current` from H,
//     too: a refresh that changes nothing makes no event, so only `current` shows that
//     the connector works.
//
// It prints one JSON object a line. A trading system would be another Listener than
// Printer.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Options are those of the command line.
type Options struct {
	bootstrap string
	changes   string
	current   string
	registry  string
	schemas   string
	seconds   float64
	maxEvents int
	patience  float64
}

func parseOptions() Options {
	var options Options
	flag.StringVar(&options.bootstrap, "bootstrap", "127.0.0.1:9092", "Kafka's `HOST:PORT`")
	prefix := flag.String("prefix", "gex.levels", "the connector's kafka.topic_prefix")
	feed := flag.String("feed", "all", "the feed to follow")
	flag.StringVar(&options.registry, "registry", "", "`URL` of the schema registry, if the connector uses one")
	flag.StringVar(&options.schemas, "schemas", "../../schemas", "folder with the connector's schemas")
	flag.Float64Var(&options.seconds, "seconds", -1, "end this long after the states are restored (default: never)")
	flag.IntVar(&options.maxEvents, "max-events", -1, "end after this number of events (default: never)")
	flag.Float64Var(&options.patience, "patience", 90, "end with an error if an event is missing for so many seconds")
	flag.Parse()
	options.changes = fmt.Sprintf("%s.%s.changes", *prefix, *feed)
	options.current = fmt.Sprintf("%s.%s.current", *prefix, *feed)
	return options
}

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(interrupted, parseOptions())
	if err != nil && interrupted.Err() == nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, options Options) error {
	decoder, err := NewDecoder(options.schemas, options.registry)
	if err != nil {
		return err
	}
	kafka, err := Connect(options.bootstrap)
	if err != nil {
		return err
	}
	defer kafka.Close()

	// 1. Note both ends, in this order.
	start, err := kafka.CommittedEnds(ctx, options.changes)
	if err != nil {
		return err
	}
	high, err := kafka.Ends(ctx, options.current)
	if err != nil {
		return err
	}

	// 2. Restore.
	states, err := kafka.Restore(ctx, options.current, high, decoder, seconds(options.patience))
	if err != nil {
		return err
	}
	printer := NewPrinter(os.Stdout)
	known := map[string]int64{}
	for symbol, state := range states {
		known[symbol] = state.Sequence
		printer.State(state)
	}
	printer.Restored(len(states))

	// 3. Follow.
	if options.seconds >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(options.seconds))
		defer cancel()
	}
	return kafka.Follow(ctx, Following{
		changes:   options.changes,
		current:   options.current,
		from:      map[string]map[int32]int64{options.changes: start, options.current: high},
		decoder:   decoder,
		order:     NewOrder(known, seconds(options.patience)),
		listener:  printer,
		maxEvents: options.maxEvents,
	})
}

func seconds(number float64) time.Duration {
	return time.Duration(number * float64(time.Second))
}
