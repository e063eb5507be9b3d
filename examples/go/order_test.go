package main

import (
	"testing"
	"time"
)

func TestAnEarlyEventWaitsForThePatience(t *testing.T) {
	order := NewOrder(map[string]int64{}, time.Minute)
	start := time.Unix(0, 0)
	order.Add(Event{Symbol: "BTCUSDT", Sequence: 1}, start)

	later := start.Add(time.Hour)
	order.Add(Event{Symbol: "BTCUSDT", Sequence: 3}, later)
	if err := order.Check(later.Add(time.Second)); err != nil {
		t.Errorf("it did not wait: %v", err)
	}
	if order.Check(later.Add(time.Hour)) == nil {
		t.Error("it did not report that event 2 is missing")
	}
}
