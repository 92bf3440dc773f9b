package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// shed is a bucket in a folder, which may be out of reach.
type shed struct {
	Dir
	out    bool
	breaks int // it keeps something else so many times
	puts   int

	fetches int
}

func (s *shed) Fetch(ctx context.Context, name string, size func(int64) error, w io.Writer) error {
	s.fetches++
	return s.Dir.Fetch(ctx, name, size, w)
}

func (s *shed) Put(ctx context.Context, file, name string, p Progress) (Snapshot, error) {
	if s.out {
		return Snapshot{}, errors.New("the bucket is out of reach")
	}
	s.puts++
	if s.breaks > 0 {
		s.breaks--
		data, err := os.ReadFile(file)
		if err != nil {
			return Snapshot{}, err
		}
		data[len(data)/2] ^= 1
		return Snapshot{Name: name, Location: s.File(name)}, os.WriteFile(s.File(name), data, 0o600)
	}
	return s.Dir.Put(ctx, file, name, p)
}

// keeping is a keeper with a clock of the test's.
type keeping struct {
	*Keeper
	t      *testing.T
	b      *board
	bucket *shed
	lead   bool
	taken  int // sources read

	mu       sync.Mutex // guards what follows
	now      time.Time
	outcomes []Outcome
	slept    chan time.Duration // each sleep of Run; the test answers by advancing
	wake     chan time.Time
}

func newKeeping(t *testing.T, schedule string) *keeping {
	t.Helper()
	s, err := ParseSchedule(schedule)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeping{
		t: t, b: newBoard(t), bucket: &shed{Dir: Dir{t.TempDir()}}, now: time.Date(2030, 1, 1, 10, 0, 0, 0, time.UTC),
		slept: make(chan time.Duration), wake: make(chan time.Time),
	}
	k.Keeper = NewKeeper(KeeperConfig{
		Schedule: s, Series: func() string { return "s-m" }, Dir: Dir{filepath.Join(t.TempDir(), "snapshots")}, Bucket: k.bucket,
		Retention: 3, Compress: true,
		Source: func(ctx context.Context, size func(int64) error, w io.Writer) error {
			k.taken++
			return k.b.source()(ctx, size, w)
		},
		Position: k.b.position, Leading: func() bool { return k.lead },
		Now: k.clock, Sleep: func(d time.Duration) <-chan time.Time { k.slept <- d; return k.wake },
		Logger: slog.New(slog.DiscardHandler),
		Done: func(o Outcome) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.outcomes = append(k.outcomes, o)
		},
	})
	return k
}

func (k *keeping) clock() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *keeping) advance(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = k.now.Add(d)
}

func (k *keeping) names(p Place) []string {
	k.t.Helper()
	all, err := p.List(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	var out []string
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out
}

// once runs it now, an hour later than before.
func (k *keeping) once() error {
	k.advance(time.Hour)
	return k.Once(k.t.Context())
}

// TestKeeperTakesWhatChanged: nothing is written while nothing changes, and entries
// of the log that change nothing leave no snapshot.
func TestKeeperTakesWhatChanged(t *testing.T) {
	k := newKeeping(t, "0 * * * *")
	for i, c := range []struct {
		what         string
		change       func()
		kept, looked int
	}{
		{"at first", func() {}, 1, 1},
		{"nothing changed", func() {}, 1, 1},
		{"only the index moved", func() { k.b.Writer().Publish(k.b.Applied() + 1) }, 1, 2},
		{"nothing since", func() {}, 1, 2},
		{"a key", func() { k.b.put("k", "v") }, 2, 3},
		{"a record", func() { k.b.record("user", "anna", 1) }, 3, 4},
		{"another key", func() { k.b.put("k", "w") }, 3, 5}, // of three that are kept
	} {
		c.change()
		if err := k.once(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := k.names(k.cfg.Dir); len(got) != c.kept || k.taken != c.looked || len(k.outcomes) != i+1 {
			t.Errorf("%s: %v, and the member was asked %d times; want %d and %d", c.what, got, k.taken, c.kept, c.looked)
		}
	}
	if got := k.names(k.bucket); len(got) != 0 {
		t.Errorf("a member that does not lead has uploaded %v", got)
	}
	// A new process knows what the one before has seen.
	k.Keeper = NewKeeper(k.cfg)
	if err := k.once(); err != nil || k.taken != 5 {
		t.Errorf("after a restart: %v, asked %d times", err, k.taken)
	}
	if o := k.outcomes[len(k.outcomes)-1]; o.Taken || o.Snapshot.Name == "" {
		t.Errorf("the last run: %+v", o)
	}
	// If the newest is gone, or not what it was, another is taken.
	names := k.names(k.cfg.Dir)
	if err := os.Truncate(k.cfg.Dir.File(names[len(names)-1]), 100); err != nil {
		t.Fatal(err)
	}
	if err := k.once(); err != nil || k.taken != 6 {
		t.Errorf("after damage: %v, asked %d times", err, k.taken)
	}
}

// TestKeeperUploads: who leads does, what the bucket has not, and tries again what
// failed, without taking another.
func TestKeeperUploads(t *testing.T) {
	k := newKeeping(t, "0 * * * *")
	k.lead, k.bucket.out = true, true
	if err := k.once(); err == nil || !strings.Contains(err.Error(), "out of reach") {
		t.Errorf("a bucket out of reach: %v", err)
	}
	if o := k.outcomes[0]; !o.Taken || o.Err == nil || len(k.names(k.cfg.Dir)) != 1 {
		t.Errorf("the outcome is %+v, want a snapshot and an error", o)
	}
	k.bucket.out = false
	for range 2 {
		if err := k.once(); err != nil || k.taken != 1 || k.bucket.puts != 1 {
			t.Errorf("when it is back: %v, asked %d times, %d uploads; want once each", err, k.taken, k.bucket.puts)
		}
	}
	for i := range 5 {
		k.b.put("k", fmt.Sprint(i))
		if err := k.once(); err != nil {
			t.Fatal(err)
		}
	}
	if here, there := k.names(k.cfg.Dir), k.names(k.bucket); len(here) != 3 || fmt.Sprint(here) != fmt.Sprint(there) {
		t.Errorf("kept %v and %v, want three alike", here, there)
	}
}

// TestKeeperUploadsAgain: what somebody has removed from the bucket is put there again
// at the next run, though nothing has changed since.
func TestKeeperUploadsAgain(t *testing.T) {
	k := newKeeping(t, "0 * * * *")
	k.lead = true
	if err := k.once(); err != nil {
		t.Fatal(err)
	}
	there := k.names(k.bucket)
	if err := os.Remove(k.bucket.File(there[0])); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.once(); err != nil {
			t.Fatal(err)
		}
		if again := k.names(k.bucket); fmt.Sprint(again) != fmt.Sprint(there) || k.taken != 1 || k.bucket.puts != 2 || k.bucket.fetches != 2 {
			t.Errorf("the bucket has %v after %d uploads that were read %d times, and the member was asked %d times; want %v, 2, 2 and 1", again, k.bucket.puts, k.bucket.fetches, k.taken, there)
		}
	}
}

// TestKeeperFails: a snapshot that fails costs none of those before.
func TestKeeperFails(t *testing.T) {
	k := newKeeping(t, "0 * * * *")
	for i := range 3 {
		k.b.put("k", fmt.Sprint(i))
		if err := k.once(); err != nil {
			t.Fatal(err)
		}
	}
	before := k.names(k.cfg.Dir)
	good := k.cfg.Source
	k.Keeper.cfg.Source = failing{good, 5000, errors.New("the disk fails")}.stream
	for range 5 {
		k.b.put("k", "more")
		if err := k.once(); err == nil {
			t.Fatal("no error")
		}
	}
	if got := k.names(k.cfg.Dir); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("kept %v, want %v as before", got, before)
	}
}

// TestKeeperWithoutClock: a board that takes it to be 1970 keeps what it takes then
// as the newest.
func TestKeeperWithoutClock(t *testing.T) {
	k := newKeeping(t, "0 * * * *")
	if err := k.once(); err != nil {
		t.Fatal(err)
	}
	k.now = time.Unix(100, 0)
	for i := range 5 {
		k.b.put("k", fmt.Sprint(i))
		if err := k.once(); err != nil {
			t.Fatal(err)
		}
	}
	names := k.names(k.cfg.Dir)
	c, d, err := Open(t.Context(), k.cfg.Dir.File(names[len(names)-1]), t.TempDir(), nil)
	if err != nil || c.Revision != k.b.Rev() {
		t.Errorf("the newest of %v is at %+v, %v; want revision %d", names, c, err, k.b.Rev())
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestKeeperRun: it runs when it is due, soon after a start at which it is overdue,
// and looks at the clock in between.
func TestKeeperRun(t *testing.T) {
	k := newKeeping(t, "0 */12 * * *") // at noon
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	// Owner: this test; ends with cancel.
	wg.Go(func() { k.Run(ctx) })
	sleep := func(want time.Duration) {
		t.Helper()
		select {
		case got := <-k.slept:
			if got != want {
				t.Errorf("sleeps for %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not sleep")
		}
	}
	ran := func() int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.outcomes)
	}
	sleep(soon) // there was never one
	k.advance(soon)
	k.wake <- time.Time{}
	sleep(lookAgain)
	if ran() != 1 {
		t.Errorf("%d runs soon after the start, want 1", ran())
	}
	k.advance(lookAgain)
	k.wake <- time.Time{}
	sleep(lookAgain)
	k.advance(100 * time.Minute) // 11:57
	k.wake <- time.Time{}
	sleep(3 * time.Minute)
	k.b.put("k", "v")
	k.advance(3 * time.Minute)
	k.wake <- time.Time{}
	sleep(lookAgain)
	if ran() != 2 {
		t.Errorf("%d runs at noon, want 2", ran())
	}
	// The clock of the board is set back by a year.
	k.advance(-365 * 24 * time.Hour)
	k.wake <- time.Time{}
	sleep(lookAgain)
	k.advance(12 * time.Hour)
	k.wake <- time.Time{}
	sleep(lookAgain)
	if ran() != 3 {
		t.Errorf("%d runs half a day after the clock was set back, want 3", ran())
	}
	cancel()
	wg.Wait()

	// After a restart it is due by the schedule, or overdue.
	k.now = time.Date(2030, 1, 1, 14, 0, 0, 0, time.UTC)
	if got, want := k.first(t.Context()), k.now.Add(10*time.Hour); !got.Equal(want) {
		t.Errorf("with one of noon, at two it is due at %v, want %v", got, want)
	}
	k.now = time.Date(2030, 1, 3, 14, 0, 0, 0, time.UTC)
	if got, want := k.first(t.Context()), k.now.Add(soon); !got.Equal(want) {
		t.Errorf("two days later it is due at %v, want %v", got, want)
	}
}

func TestParseSchedule(t *testing.T) {
	for text, says := range map[string]string{
		"0 */12 * * *": "", "@daily": "", "@every 6h": "", "@every 1m": "", "@every 1s": "once a minute is the most", "@every 59s": "once a minute", "30 3 * * 1-5": "", "": "none", "off": "none", " ": "none",
		"hourly": "want minute", "61 * * * *": "want minute", "0 0 30 2 *": "never comes", "* * * *": "want minute",
	} {
		s, err := ParseSchedule(text)
		switch {
		case says == "" && (err != nil || s == nil), says == "none" && (err != nil || s != nil):
			t.Errorf("%q: %v, %v", text, s, err)
		case says != "" && says != "none" && (err == nil || !strings.Contains(err.Error(), says)):
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// TestUploadReadBack: what comes back different is no snapshot, and does not stay.
func TestUploadReadBack(t *testing.T) {
	k := newKeeping(t, "@daily")
	k.lead, k.bucket.breaks = true, 1
	if err := k.once(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "comes back with") {
		t.Errorf("a store that changes a bit: %v", err)
	}
	if got := k.names(k.bucket); len(got) != 0 {
		t.Errorf("it stays as %v", got)
	}
	if err := k.once(); err != nil || k.bucket.puts != 2 {
		t.Errorf("again: %v after %d uploads", err, k.bucket.puts)
	}
	// The power went before it was written down that it is there, or another cluster
	// uses the bucket.
	n := k.newest()
	if err := k.upload(t.Context(), "s-m", n); err != nil || k.bucket.puts != 2 {
		t.Errorf("the same is there: %v after %d uploads", err, k.bucket.puts)
	}
	if err := os.WriteFile(k.bucket.File(n.Snapshot.Name), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.upload(t.Context(), "s-m", n); err == nil || !strings.Contains(err.Error(), "is not this member's") || len(k.names(k.bucket)) != 1 {
		t.Errorf("another is there: %v", err)
	}
}

// TestTwoClustersOnePlace: clusters whose members share a name, a folder and a bucket,
// and whose schedules fire in the same second, keep what is theirs.
func TestTwoClustersOnePlace(t *testing.T) {
	const keep = 2
	first := newKeeping(t, "0 * * * *")
	var both []*keeping
	for cluster := range uint64(2) {
		k := newKeeping(t, "0 * * * *")
		k.b.put("whose", fmt.Sprint(cluster))
		k.lead, k.bucket, k.now = true, first.bucket, first.now
		k.cfg.Dir, k.cfg.Bucket, k.cfg.Retention = first.cfg.Dir, first.bucket, keep
		k.cfg.Series = func() string { return Series("s", "m", cluster+1) }
		both = append(both, k)
	}
	// One goes on, and the other changes nothing any more.
	busy, quiet := both[0], both[1]
	for i := range keep {
		quiet.b.put("k", fmt.Sprint(i))
		if err := quiet.once(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2*keep + 1 {
		busy.b.put("k", fmt.Sprint(i))
		for _, k := range both {
			if err := k.once(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if quiet.taken != keep || first.bucket.puts != keep+2*keep+1 {
		t.Errorf("the quiet one was asked %d times, and both have uploaded %d; want %d and %d", quiet.taken, first.bucket.puts, keep, keep+2*keep+1)
	}
	for _, p := range []Place{first.cfg.Dir, first.bucket} {
		all, err := p.List(t.Context())
		kept := map[string]int{}
		for _, s := range all {
			kept[s.Cluster]++
		}
		if err != nil || len(kept) != 2 || kept[all[0].Cluster] != keep || len(all) != 2*keep {
			t.Errorf("%s has %+v, %v; want %d of each", p, all, err, keep)
		}
	}
	if _, note, err := Newest(t.Context(), first.bucket, t.TempDir()); err != nil || !strings.Contains(note, "of 2 clusters") {
		t.Errorf("latest: %q, %v", note, err)
	}
}
