package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	startTimeout = 30 * time.Second
	pollTimeout  = 200 * time.Millisecond
	// Partitions may be added to `changes`, and it may be deleted.
	lookInterval = 5 * time.Second
	// A broker may not know the topic for a moment after its start.
	maxMisses = 2
)

// Kafka reads topics without a consumer group.
type Kafka struct {
	bootstrap string
	client    *kgo.Client
	admin     *kadm.Client
	// A topic that is created again has another id.
	ids map[string]kadm.TopicID
}

// Connect makes the client; it connects at its first request.
func Connect(bootstrap string) (*Kafka, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return nil, fmt.Errorf("--bootstrap %s: %w", bootstrap, err)
	}
	return &Kafka{bootstrap, client, kadm.NewClient(client), map[string]kadm.TopicID{}}, nil
}

// Close ends all connections.
func (k *Kafka) Close() {
	k.client.Close()
}

// CommittedEnds returns the offset after the last committed record of each partition.
// It is before the first open transaction. Follow will notice if the topic is created again.
func (k *Kafka) CommittedEnds(ctx context.Context, topic string) (map[int32]int64, error) {
	if err := k.identify(ctx, topic); err != nil {
		return nil, err
	}
	return k.list(ctx, topic, k.admin.ListCommittedOffsets)
}

// Ends returns the offset after the last record of each partition, committed or not.
// Follow will notice if the topic is created again.
func (k *Kafka) Ends(ctx context.Context, topic string) (map[int32]int64, error) {
	if err := k.identify(ctx, topic); err != nil {
		return nil, err
	}
	return k.list(ctx, topic, k.admin.ListEndOffsets)
}

func (k *Kafka) identify(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	topics, err := k.admin.ListTopics(ctx, topic)
	if err != nil {
		return k.failure(topic, err)
	}
	k.ids[topic] = topics[topic].ID
	return nil
}

func (k *Kafka) list(
	ctx context.Context, topic string,
	list func(context.Context, ...string) (kadm.ListedOffsets, error),
) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	listed, err := list(ctx, topic)
	if err != nil {
		return nil, k.failure(topic, err)
	}
	if err := listed.Error(); err != nil {
		return nil, explain(topic, err)
	}
	offsets := map[int32]int64{}
	for partition, offset := range listed[topic] {
		offsets[partition] = offset.Offset
	}
	if len(offsets) == 0 {
		return nil, explain(topic, kerr.UnknownTopicOrPartition)
	}
	return offsets, nil
}

// failure explains the error of a request.
func (k *Kafka) failure(topic string, err error) error {
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		return explain(topic, err)
	}
	return fmt.Errorf("no answer from Kafka at %s: %w: check --bootstrap", k.bootstrap, err)
}

// explain adds the remedy to an error of Kafka.
func explain(topic string, err error) error {
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InvalidTopicException):
		return fmt.Errorf("no topic %s: check --prefix and --feed, or start the connector once", topic)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("not allowed to read topic %s: grant this user READ and DESCRIBE on it", topic)
	case errors.Is(err, kerr.UnknownTopicID):
		// The client has asked several times.
		return deleted(topic)
	case errors.Is(err, kerr.OffsetOutOfRange):
		return fmt.Errorf("topic %s: retention deleted events before they were read, or the topic was deleted and created again; "+
			"start again to restore the present state", topic)
	default:
		return fmt.Errorf("topic %s: %w", topic, err)
	}
}

func deleted(topic string) error {
	return fmt.Errorf("topic %s was deleted: start again when the connector has created it again", topic)
}

// reader returns a client that reads topics from these offsets. It delivers committed
// records and the markers of transactions.
func (k *Kafka) reader(from map[string]map[int32]int64) (*kgo.Client, error) {
	offsets := map[string]map[int32]kgo.Offset{}
	for topic, partitions := range from {
		offsets[topic] = map[int32]kgo.Offset{}
		for partition, offset := range partitions {
			offsets[topic][partition] = kgo.NewOffset().At(offset)
		}
	}
	return kgo.NewClient(
		kgo.SeedBrokers(k.bootstrap),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(offsets),
		// A reader whose position is gone must not continue elsewhere.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
	)
}

// Restore returns the last state of each symbol that is committed below `high`. It fails
// if there is no progress for longer than the patience.
func (k *Kafka) Restore(
	ctx context.Context, topic string, high map[int32]int64, decoder *Decoder, patience time.Duration,
) (map[string]State, error) {
	low, err := k.list(ctx, topic, k.admin.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	reader, err := k.reader(map[string]map[int32]int64{topic: low})
	if err != nil {
		return nil, err
	}
	defer reader.Close()

	states := map[string]State{}
	waiting := map[int32]bool{}
	for partition, end := range high {
		if low[partition] < end {
			waiting[partition] = true
		}
	}
	progressAt := time.Now()
	for len(waiting) > 0 {
		records, err := poll(ctx, reader)
		if err != nil {
			return nil, err
		}
		for _, record := range records {
			if waiting[record.Partition] {
				progressAt = time.Now()
			}
			// The last record of a partition is never compacted. If it belongs to a
			// transaction that is aborted, the marker comes after it.
			if record.Offset >= high[record.Partition]-1 {
				delete(waiting, record.Partition)
			}
			if !isOurs(record) {
				continue
			}
			state, err := decoder.State(record.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", place(record), err)
			}
			// Another program may have copied an old state to another partition.
			if state.Sequence >= states[state.Symbol].Sequence {
				states[state.Symbol] = state
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(waiting) > 0 && time.Since(progressAt) > patience {
			return nil, fmt.Errorf("topic %s: an open transaction holds back its records: "+
				"end the one that `gex-connector check` names, then start again", topic)
		}
	}
	return states, nil
}

// Listener receives the levels of a feed.
type Listener interface {
	// Event takes the next event of its symbol. Each comes once, and its sequence is
	// larger by one.
	Event(event Event)
	// Refreshed takes a state that was written after the start: the sign that the
	// connector works. It may come before or after its event. Take levels and status
	// from events only.
	Refreshed(state State)
	// Passed is called several times a second, also if nothing comes.
	Passed(now time.Time)
}

// Following says what Follow reads, and who receives it.
type Following struct {
	changes   string
	current   string
	from      map[string]map[int32]int64
	decoder   *Decoder
	order     *Order
	listener  Listener
	maxEvents int // negative: without a limit
}

// Follow hands on every newer event, once and in order, until the limit is reached or the
// context ends. It fails if a topic is deleted.
func (k *Kafka) Follow(ctx context.Context, what Following) error {
	reader, err := k.reader(what.from)
	if err != nil {
		return err
	}
	defer reader.Close()

	events := topicWatch{
		topic: what.changes, reader: reader, admin: k.admin, id: k.ids[what.changes],
		partitions: len(what.from[what.changes]),
	}
	// While it is gone, nothing is written to the other one either.
	states := topicWatch{topic: what.current, admin: k.admin, id: k.ids[what.current]}
	for remaining := what.maxEvents; remaining != 0 && ctx.Err() == nil; {
		for _, watch := range []*topicWatch{&events, &states} {
			if err := watch.look(ctx); err != nil {
				return err
			}
		}
		records, err := poll(ctx, reader)
		if err != nil {
			return err
		}
		for _, record := range records {
			following, err := what.take(record)
			if err != nil {
				return fmt.Errorf("%s: %w", place(record), err)
			}
			for _, event := range following {
				if remaining != 0 {
					what.listener.Event(event)
					remaining--
				}
			}
		}
		what.listener.Passed(time.Now())
		if err := what.order.Check(time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// take returns the events that follow now. It hands on a state.
func (f Following) take(record *kgo.Record) ([]Event, error) {
	if !isOurs(record) {
		return nil, nil
	}
	if record.Topic == f.current {
		state, err := f.decoder.State(record.Value)
		if err == nil {
			f.listener.Refreshed(state)
		}
		return nil, err
	}
	event, err := f.decoder.Event(record.Value)
	if err != nil {
		return nil, err
	}
	return f.order.Add(event, time.Now()), nil
}

// poll returns the records that come within a short time, if any.
func poll(ctx context.Context, reader *kgo.Client) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	fetches := reader.PollFetches(ctx)
	for _, failed := range fetches.Errors() {
		// A poll that ends without a record is reported as an error.
		if ctx.Err() == nil || !errors.Is(failed.Err, ctx.Err()) {
			return nil, explain(failed.Topic, failed.Err)
		}
	}
	return fetches.Records(), nil
}

// isOurs returns false for markers and for strays: records that the connector did not
// write. Another program may have the right to write to the topics, and an operator may
// delete a state by mistake. The connector continues as if strays were not there.
func isOurs(record *kgo.Record) bool {
	if record.Attrs.IsControl() {
		return false
	}
	for _, header := range record.Headers {
		if header.Key == "ce_type" {
			return true
		}
	}
	fmt.Fprintln(os.Stderr, "skipped a record of another program:", place(record))
	return false
}

func place(record *kgo.Record) string {
	return fmt.Sprintf("%s-%d, offset %d", record.Topic, record.Partition, record.Offset)
}

// topicWatch reads the partitions that are added to a topic, and notices its deletion.
type topicWatch struct {
	topic      string
	reader     *kgo.Client // nil: its records are not read
	admin      *kadm.Client
	id         kadm.TopicID
	partitions int
	misses     int
	lookedAt   time.Time
}

func (w *topicWatch) look(ctx context.Context) error {
	if time.Since(w.lookedAt) < lookInterval {
		return nil
	}
	w.lookedAt = time.Now()
	ctx, cancel := context.WithTimeout(ctx, lookInterval)
	defer cancel()
	topics, err := w.admin.ListTopics(ctx, w.topic)
	if err != nil {
		// Kafka is away. The client connects again, and we look again.
		return nil
	}
	topic := topics[w.topic]
	if errors.Is(topic.Err, kerr.UnknownTopicOrPartition) {
		w.misses++
		if w.misses == maxMisses {
			return deleted(w.topic)
		}
		return nil
	}
	if topic.Err != nil {
		return explain(w.topic, topic.Err)
	}
	w.misses = 0
	if topic.ID != w.id {
		return fmt.Errorf("topic %s was deleted and created again: start again to restore the present state", w.topic)
	}
	if w.reader == nil {
		return nil
	}
	for partition := int32(w.partitions); partition < int32(len(topic.Partitions)); partition++ {
		beginning := map[int32]kgo.Offset{partition: kgo.NewOffset().AtStart()}
		w.reader.AddConsumePartitions(map[string]map[int32]kgo.Offset{w.topic: beginning})
	}
	w.partitions = max(w.partitions, len(topic.Partitions))
	return nil
}
