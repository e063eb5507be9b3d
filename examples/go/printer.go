package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// Line is an event or a state, as it is printed.
type Line struct {
	Type           string   `json:"type"`
	Symbol         string   `json:"symbol"`
	Sequence       int64    `json:"sequence"`
	Kind           *string  `json:"kind"`
	Reason         *string  `json:"reason"`
	Status         string   `json:"status"`
	ComputedAt     *int64   `json:"computed_at"`
	Act            string   `json:"act"`
	Model          *string  `json:"model"`
	ModelChanged   bool     `json:"model_changed"`
	Hvl            *float64 `json:"hvl"`
	CallResistance *float64 `json:"call_resistance"`
	PutSupport     *float64 `json:"put_support"`
}

// Printer prints events and states; a trading system would act here.
type Printer struct {
	encoder *json.Encoder
	// The model behind the last levels of each symbol.
	models  map[string]string
	silence *Silence
}

// NewPrinter prints to a writer.
func NewPrinter(out io.Writer) *Printer {
	return &Printer{json.NewEncoder(out), map[string]string{}, NewSilence()}
}

// State prints a restored state.
func (p *Printer) State(state State) {
	p.silence.Status(state.Symbol, state.Status, state.ObservedAt)
	line := Line{
		Type: "state", Symbol: state.Symbol, Sequence: state.Sequence,
		Status: state.Status, ComputedAt: state.ComputedAt,
	}
	p.print(line, state.Levels)
}

// Event prints an event.
func (p *Printer) Event(event Event) {
	p.silence.Status(event.Symbol, event.Status, event.ObservedAt)
	line := Line{
		Type: "event", Symbol: event.Symbol, Sequence: event.Sequence, Kind: &event.Kind,
		Reason: event.Reason, Status: event.Status, ComputedAt: event.ComputedAt,
	}
	p.print(line, event.After)
}

// Refreshed notes that the connector works.
func (p *Printer) Refreshed(state State) {
	p.silence.Refresh(state.Symbol, state.ObservedAt)
}

// Passed prints on standard error that a symbol is silent, or refreshed again. A trading
// system would stop here.
func (p *Printer) Passed(now time.Time) {
	for _, line := range p.silence.Lines(now) {
		fmt.Fprintln(os.Stderr, line)
	}
}

// Restored prints that all states were printed.
func (p *Printer) Restored(symbols int) {
	p.encode(map[string]any{"type": "restored", "symbols": symbols})
}

func (p *Printer) print(line Line, levels *Levels) {
	line.Act = act(line.Status)
	// A state keeps the last levels whatever its status, so look at that first.
	if line.Act != "none" && levels != nil {
		line.Hvl = levels.AllExpiry.Hvl
		line.CallResistance = levels.AllExpiry.CallResistance
		line.PutSupport = levels.AllExpiry.PutSupport
		line.Model = levels.Positioning
	}
	if line.Model != nil {
		// Levels of two models are not comparable: forget all that was derived from older ones.
		last, known := p.models[line.Symbol]
		line.ModelChanged = known && last != *line.Model
		p.models[line.Symbol] = *line.Model
	}
	p.encode(line)
}

// act returns how a program should treat the levels.
func act(status string) string {
	switch status {
	case "LIVE":
		return "use"
	case "STALE":
		return "careful"
	default:
		return "none"
	}
}

func (p *Printer) encode(line any) {
	// Standard output may be closed, and then there is nobody to tell.
	_ = p.encoder.Encode(line)
}
