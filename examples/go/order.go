package main

import (
	"fmt"
	"time"
)

// Order puts the events of each symbol in order and drops those that are known already.
//
// Events come in order as long as a symbol stays in its partition. After partitions were
// added it may move to another one, and a reader may see its next events before the last
// ones in the former partition.
type Order struct {
	// The last sequence of each symbol that was passed on.
	known map[string]int64
	// Events that came before the one they follow.
	early      map[string]map[int64]Event
	earlySince map[string]time.Time
	patience   time.Duration
}

// NewOrder starts after the known sequences.
func NewOrder(known map[string]int64, patience time.Duration) *Order {
	return &Order{known, map[string]map[int64]Event{}, map[string]time.Time{}, patience}
}

// Add takes an event, and returns all that follow each other now.
func (o *Order) Add(event Event, now time.Time) []Event {
	symbol := event.Symbol
	if event.Sequence <= o.known[symbol] {
		return nil
	}
	if o.early[symbol] == nil {
		o.early[symbol] = map[int64]Event{}
	}
	o.early[symbol][event.Sequence] = event

	var following []Event
	for {
		next, ok := o.early[symbol][o.known[symbol]+1]
		if !ok {
			break
		}
		o.known[symbol]++
		delete(o.early[symbol], next.Sequence)
		following = append(following, next)
	}
	if len(o.early[symbol]) == 0 {
		delete(o.early, symbol)
		delete(o.earlySince, symbol)
	} else if _, waits := o.earlySince[symbol]; !waits || len(following) > 0 {
		o.earlySince[symbol] = now
	}
	return following
}

// Check returns an error if an event has been missing for too long.
func (o *Order) Check(now time.Time) error {
	for symbol, events := range o.early {
		if now.Sub(o.earlySince[symbol]) <= o.patience {
			continue
		}
		received := int64(0)
		for sequence := range events {
			if received == 0 || sequence < received {
				received = sequence
			}
		}
		return fmt.Errorf("%s: expected event %d, received %d: events are missing; start again to restore the present state",
			symbol, o.known[symbol]+1, received)
	}
	return nil
}
