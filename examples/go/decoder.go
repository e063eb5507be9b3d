package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

const registryTimeout = 10 * time.Second

// Confluent framing: a zero byte, and the schema's id in the registry.
// Avro single-object encoding: C3 01, and the schema's fingerprint.
const (
	confluentPrefixBytes    = 5
	singleObjectPrefixBytes = 10
)

// The reader's schemas: the fields that this program uses. Avro leaves out the others.
const (
	statusSchema = `{"type": "enum", "name": "gex.levels.Status",
		"symbols": ["LIVE", "STALE", "MISSING", "INVALID", "REMOVED"]}`

	kindSchema = `{"type": "enum", "name": "gex.levels.Kind",
		"symbols": ["SNAPSHOT", "CHANGED", "STALE", "FRESH", "MISSING", "INVALID", "RESTORED", "REMOVED"]}`

	levelsSchema = `{"type": "record", "name": "gex.levels.Levels", "fields": [
		{"name": "positioning", "type": ["null", "string"], "default": null},
		{"name": "all_expiry", "type": {"type": "record", "name": "gex.levels.AllExpiry", "fields": [
			{"name": "hvl", "type": ["null", "double"], "default": null},
			{"name": "call_resistance", "type": ["null", "double"], "default": null},
			{"name": "put_support", "type": ["null", "double"], "default": null}
		]}}
	]}`

	eventSchema = `{"type": "record", "name": "gex.levels.LevelsEvent", "fields": [
		{"name": "symbol", "type": "string"},
		{"name": "sequence", "type": "long"},
		{"name": "kind", "type": "gex.levels.Kind"},
		{"name": "reason", "type": ["null", "string"], "default": null},
		{"name": "status", "type": "gex.levels.Status"},
		{"name": "computed_at", "type": ["null", "long"], "default": null},
		{"name": "observed_at", "type": "long"},
		{"name": "after", "type": ["null", "gex.levels.Levels"], "default": null}
	]}`

	stateSchema = `{"type": "record", "name": "gex.levels.LevelsState", "fields": [
		{"name": "symbol", "type": "string"},
		{"name": "sequence", "type": "long"},
		{"name": "status", "type": "gex.levels.Status"},
		{"name": "computed_at", "type": ["null", "long"], "default": null},
		{"name": "observed_at", "type": "long"},
		{"name": "levels", "type": ["null", "gex.levels.Levels"], "default": null}
	]}`
)

// Levels are the levels over all expiries, and the model behind them.
type Levels struct {
	Positioning *string `avro:"positioning"`
	AllExpiry   struct {
		Hvl            *float64 `avro:"hvl"`
		CallResistance *float64 `avro:"call_resistance"`
		PutSupport     *float64 `avro:"put_support"`
	} `avro:"all_expiry"`
}

// Event is a change of one symbol's levels or of their status.
type Event struct {
	Symbol     string  `avro:"symbol"`
	Sequence   int64   `avro:"sequence"`
	Kind       string  `avro:"kind"`
	Reason     *string `avro:"reason"`
	Status     string  `avro:"status"`
	ComputedAt *int64  `avro:"computed_at"`
	ObservedAt int64   `avro:"observed_at"`
	After      *Levels `avro:"after"`
}

// State is the state of one symbol.
type State struct {
	Symbol     string  `avro:"symbol"`
	Sequence   int64   `avro:"sequence"`
	Status     string  `avro:"status"`
	ComputedAt *int64  `avro:"computed_at"`
	ObservedAt int64   `avro:"observed_at"`
	Levels     *Levels `avro:"levels"`
}

// Decoder decodes values that were written with any version of the schemas.
type Decoder struct {
	registry    *sr.Client
	registryURL string
	event       *avro.Schema
	state       *avro.Schema
	// The schema of each known prefix, as its writer had it.
	writers map[string]*avro.Schema
	// The same, resolved to ours.
	resolved map[string]*avro.Schema
}

// NewDecoder reads the schemas of a folder and the older ones in its folder `released`.
// Without a registry (""), it decodes only values in single-object encoding.
func NewDecoder(folder, registryURL string) (*Decoder, error) {
	decoder := &Decoder{
		registryURL: registryURL,
		writers:     map[string]*avro.Schema{},
		resolved:    map[string]*avro.Schema{},
	}
	if registryURL != "" {
		var err error
		if decoder.registry, err = sr.NewClient(sr.URLs(registryURL)); err != nil {
			return nil, fmt.Errorf("--registry %s: %w", registryURL, err)
		}
	}
	var ours avro.SchemaCache
	for _, text := range []string{statusSchema, kindSchema, levelsSchema} {
		if _, err := ours.Parse(text); err != nil {
			return nil, err
		}
	}
	var err error
	if decoder.event, err = ours.Parse(eventSchema); err != nil {
		return nil, err
	}
	if decoder.state, err = ours.Parse(stateSchema); err != nil {
		return nil, err
	}

	released, err := filepath.Glob(filepath.Join(folder, "released", "*"))
	if err != nil {
		return nil, err
	}
	for _, version := range append(released, folder) {
		if err := decoder.learn(version); err != nil {
			return nil, fmt.Errorf("cannot load the schemas: %w; set --schemas to the connector's folder schemas", err)
		}
	}
	return decoder, nil
}

// learn makes the schemas of a version known.
func (d *Decoder) learn(folder string) error {
	var cache avro.SchemaCache
	// A type comes before the types that use it.
	for _, name := range []string{"Status", "Source", "Levels", "LevelsEvent", "LevelsState"} {
		path := filepath.Join(folder, "gex.levels."+name+".avsc")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		schema, err := cache.Parse(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		d.writers[singleObjectPrefix(schema)] = schema
	}
	return nil
}

func singleObjectPrefix(schema *avro.Schema) string {
	fingerprint := schema.Fingerprint(avro.NewRabin())
	// It is big endian here, and little endian in a value.
	slices.Reverse(fingerprint)
	return "\xc3\x01" + string(fingerprint)
}

// Event decodes a value of `changes`.
func (d *Decoder) Event(value []byte) (event Event, err error) {
	return event, d.decode(value, d.event, &event)
}

// State decodes a value of `current`.
func (d *Decoder) State(value []byte) (state State, err error) {
	return state, d.decode(value, d.state, &state)
}

func (d *Decoder) decode(value []byte, reader *avro.Schema, target any) error {
	size := singleObjectPrefixBytes
	if bytes.HasPrefix(value, []byte{0}) {
		size = confluentPrefixBytes
	}
	if len(value) < size {
		return fmt.Errorf("a value of %d bytes is too short for a framed Avro datum", len(value))
	}
	prefix := string(value[:size])
	schema, err := d.schema(prefix, reader)
	if err != nil {
		return err
	}
	_, err = schema.Decode(value[size:], target)
	return err
}

// schema returns the schema that decodes values with this prefix into our layout.
func (d *Decoder) schema(prefix string, reader *avro.Schema) (*avro.Schema, error) {
	if schema, ok := d.resolved[prefix]; ok {
		return schema, nil
	}
	writer, ok := d.writers[prefix]
	if !ok {
		var err error
		if writer, err = d.fetch(prefix); err != nil {
			return nil, err
		}
	}
	schema, err := avro.Resolve(writer, reader)
	if err != nil {
		return nil, fmt.Errorf("schema %s cannot be read by this version, update this program and schemas/: %w", nameOf(prefix), err)
	}
	d.resolved[prefix] = schema
	return schema, nil
}

func (d *Decoder) fetch(prefix string) (*avro.Schema, error) {
	name := nameOf(prefix)
	if prefix[0] != 0 {
		return nil, fmt.Errorf("schema %s is unknown: take schemas/ from the connector's version that writes the topic", name)
	}
	if d.registry == nil {
		return nil, fmt.Errorf("schema %s is in a schema registry: pass its address with --registry", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), registryTimeout)
	defer cancel()
	schema, err := d.registry.SchemaByID(ctx, int(binary.BigEndian.Uint32([]byte(prefix[1:]))))
	var refused *sr.ResponseError
	switch {
	case errors.As(err, &refused):
		return nil, fmt.Errorf("schema %s: the registry %s answers %q: check --registry", name, d.registryURL, refused.Message)
	case err != nil:
		return nil, fmt.Errorf("schema %s: no answer from the registry: %w: check --registry", name, err)
	}
	writer, err := avro.Parse(schema.Schema)
	if err != nil {
		return nil, fmt.Errorf("schema %s: the registry %s does not answer with an Avro schema: %w: check --registry", name, d.registryURL, err)
	}
	return writer, nil
}

// nameOf returns a schema's id or fingerprint, as messages show it.
func nameOf(prefix string) string {
	if prefix[0] == 0 {
		return fmt.Sprint(binary.BigEndian.Uint32([]byte(prefix[1:])))
	}
	return fmt.Sprintf("%x", prefix)
}
