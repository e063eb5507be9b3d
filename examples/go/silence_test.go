package main

import (
	"slices"
	"testing"
	"time"
)

func TestASilentSymbolIsToldOnceAndSoIsItsNextRefresh(t *testing.T) {
	silence := NewSilence()
	silence.Status("BTCUSDT", "LIVE", 0)
	expectLines(t, silence, 70)
	expectLines(t, silence, 71, "BTCUSDT: not refreshed for 71 s. Does a connector run?")
	expectLines(t, silence, 71)

	silence.Refresh("BTCUSDT", 71_000_000)
	expectLines(t, silence, 71, "BTCUSDT: refreshed again")
	expectLines(t, silence, 71)
}

func TestNoRefreshIsExpectedWithoutLiveLevels(t *testing.T) {
	silence := NewSilence()
	silence.Status("BTCUSDT", "LIVE", 0)
	silence.Status("BTCUSDT", "MISSING", 0)
	silence.Refresh("BTCUSDT", 0)
	expectLines(t, silence, 3600)
}

func expectLines(t *testing.T, silence *Silence, second int64, expected ...string) {
	t.Helper()
	if lines := silence.Lines(time.Unix(second, 0)); !slices.Equal(lines, expected) {
		t.Errorf("second %d: %q, expected %q", second, lines, expected)
	}
}
