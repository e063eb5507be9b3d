package main

import (
	"fmt"
	"slices"
	"time"
)

// Two refreshes of 30 s, and the time in which another worker takes over from a dead one.
const silenceLimit = 70 * time.Second

// Silence notices that levels are no longer refreshed: no connector runs, or it cannot
// reach Kafka.
type Silence struct {
	// When the last refresh of each symbol with LIVE levels was observed.
	refreshedAt map[string]time.Time
	silent      map[string]bool
}

// NewSilence starts without any symbol.
func NewSilence() *Silence {
	return &Silence{map[string]time.Time{}, map[string]bool{}}
}

// Status takes the status of a symbol, from a state or an event. Moments are microseconds
// since the epoch.
func (s *Silence) Status(symbol, status string, observedAt int64) {
	if status != "LIVE" {
		// No levels are refreshed, or their status says already that they are old.
		delete(s.refreshedAt, symbol)
		delete(s.silent, symbol)
		return
	}
	if _, known := s.refreshedAt[symbol]; !known {
		s.refreshedAt[symbol] = time.UnixMicro(observedAt)
	}
	s.Refresh(symbol, observedAt)
}

// Refresh takes a refresh of a symbol.
func (s *Silence) Refresh(symbol string, observedAt int64) {
	last, known := s.refreshedAt[symbol]
	if at := time.UnixMicro(observedAt); known && at.After(last) {
		s.refreshedAt[symbol] = at
	}
}

// Lines returns a line for each symbol that has become silent, or is refreshed again.
func (s *Silence) Lines(now time.Time) []string {
	var lines []string
	for symbol, at := range s.refreshedAt {
		isSilent := now.Sub(at) > silenceLimit
		if isSilent == s.silent[symbol] {
			continue
		}
		s.silent[symbol] = isSilent
		if isSilent {
			lines = append(lines, fmt.Sprintf("%s: not refreshed for %.0f s. Does a connector run?", symbol, now.Sub(at).Seconds()))
		} else {
			lines = append(lines, symbol+": refreshed again")
		}
	}
	slices.Sort(lines)
	return lines
}
