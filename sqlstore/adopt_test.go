package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// writeImage writes the image of s to file, complete and synced, as who
// receives it does.
func writeImage(t testing.TB, s *Store, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Image(context.Background(), func(int64) error { return nil }, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatalf("Image: %v", err)
	}
}

// adopt makes follower adopt the image of leader.
func adopt(t testing.TB, follower, leader *Store) {
	t.Helper()
	image := filepath.Join(filepath.Dir(follower.cfg.Path), "image")
	writeImage(t, leader, image)
	if err := follower.Adopt(image); err != nil {
		t.Fatalf("Adopt: %v", err)
	}
}

// TestAdoptAgainstModel lets one member take part in a random log for a while,
// miss a part of it, and adopt the image of one that has not, again and again,
// whatever its flushes and compactions are at.
func TestAdoptAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			adoptRun(t, rand.New(rand.NewPCG(seed, 2)))
		})
	}
}

func adoptRun(t *testing.T, r *rand.Rand) {
	leader := newStore(t, Config{Owner: 1, TailBytes: 4000, FlushBytes: 6000})
	follower := newStore(t, Config{Owner: 2, TailBytes: 4000, CacheBytes: 20_000, FlushBytes: 3000})
	m := newModel()
	present, index := true, uint64(0)
	for step := range 250 {
		index++
		b := randomBatch(r, index, m.rev)
		m.apply(b)
		replay(leader, b)
		if present {
			replay(follower, b)
		}
		switch n := r.IntN(100); {
		case n < 5:
			present = false
		case n < 10:
			adopt(t, follower, leader)
			present = true
			if follower.Applied() != index || follower.Durable() != index || follower.Stats().Pending != 0 {
				t.Errorf("applied %d, durable %d, %d bytes pending; want %d, %d, 0",
					follower.Applied(), follower.Durable(), follower.Stats().Pending, index, index)
			}
			checkAll(t, r, follower, m)
			checkRecords(t, follower, m)
			compareHashes(t, leader, follower)
		case n < 15:
			flush(t, follower)
		case n < 17 && present:
			flush(t, follower)
			follower = restart(t, follower, r.IntN(2) == 0)
			checkAll(t, r, follower, m)
		}
		if t.Failed() {
			t.Fatalf("step %d, last batch %v", step, b.commands)
		}
	}
}

// TestAdoptTwice: the same state may be adopted again, and its floor rises as
// the leader's does.
func TestAdoptTwice(t *testing.T) {
	leader, follower := newStore(t, Config{Owner: 1}), newStore(t, Config{Owner: 2})
	for range 2 {
		for i := range 50 {
			put(leader, fmt.Sprint("k", i%5), fmt.Sprint(i))
		}
		compact(t, leader, leader.Rev()-3)
		for range 2 {
			adopt(t, follower, leader)
			compareHashes(t, leader, follower)
			if follower.Floor() != leader.Floor() || follower.Writer().Floor() != leader.Floor() {
				t.Errorf("floor %d, the writer's %d; want %d", follower.Floor(), follower.Writer().Floor(), leader.Floor())
			}
		}
	}
	if rev := put(follower, "k1", "next"); rev != leader.Rev()+1 {
		t.Errorf("the next revision is %d, want %d", rev, leader.Rev()+1)
	}
	if follower = restart(t, follower, true); follower.Rev() != leader.Rev()+1 {
		t.Errorf("after a restart as member %d: revision %d, want %d", follower.cfg.Owner, follower.Rev(), leader.Rev()+1)
	}
}

// TestReadersWhileAdopting: a view at R shows exactly R, or says that it is
// compacted, while the store it belongs to adopts one image after the other.
func TestReadersWhileAdopting(t *testing.T) {
	const keys, last, stride = 17, 2000, 200
	leader := newStore(t, Config{Owner: 1})
	follower := newStore(t, Config{Owner: 2, FlushBytes: 20_000, TailBytes: 5_000, CacheBytes: 10_000})
	formula := func(s *Store, to int64) {
		w := s.Writer()
		for rev := w.Base() + 1; rev <= to; rev++ {
			w.Begin(0)
			if rev%7 == 0 && s.currentHas(rev%keys) {
				w.Delete(fmt.Sprint(rev % keys))
			} else {
				w.Put(fmt.Sprint(rev%keys), fmt.Append(nil, rev), 0)
			}
			w.End()
			w.Publish(uint64(rev))
		}
	}
	var wg sync.WaitGroup
	for reader := range uint64(2) {
		// Owner: this test; ends with the last revision.
		wg.Go(func() {
			r := rand.New(rand.NewPCG(reader, 7))
			for follower.Rev() < last {
				readAndCheck(t, follower, r, keys)
			}
		})
	}
	// Owner: this test; ends with the last revision.
	wg.Go(func() {
		for follower.Rev() < last {
			if _, err := follower.HashKV(context.Background(), 0); err != nil {
				t.Errorf("HashKV: %v", err)
			}
			if err := follower.Image(context.Background(), func(int64) error { return nil }, io.Discard); err != nil {
				t.Errorf("Image: %v", err)
			}
		}
	})
	for rev := int64(stride); rev <= last && !t.Failed(); rev += stride {
		formula(follower, rev-stride/2)
		formula(leader, rev)
		_ = leader.Writer().Compact(rev - stride/4)
		leader.Writer().Publish(uint64(rev))
		adopt(t, follower, leader)
	}
	formula(follower, last)
	wg.Wait()
	compareHashes(t, leader, follower)
}

// TestAdoptWaitsForNobody: neither a reader in the middle of a statement nor
// one of an image that has stopped reading holds up an adoption, and both read
// on in the database before.
func TestAdoptWaitsForNobody(t *testing.T) {
	leader, follower := newStore(t, Config{Owner: 1}), newStore(t, Config{Owner: 2})
	for _, s := range []*Store{leader, follower} {
		s.Writer().SetRecord("kind", "name", []byte("before"))
		fill(t, s, 2*imageAhead, pageSize)
		flush(t, s)
	}
	before := hashOf(t, follower)
	inside, leave, read := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	// Owner: this test; ends when leave is closed.
	go func() {
		read <- follower.Records("kind", func(_ string, data []byte) error {
			close(inside)
			<-leave
			if string(data) != "before" {
				return fmt.Errorf("the record says %q", data)
			}
			return nil
		})
	}()
	<-inside
	r, w := io.Pipe()
	streamed := make(chan error, 1)
	// Owner: this test; ends when the pipe has been read.
	go func() {
		streamed <- errors.Join(follower.Image(context.Background(), func(int64) error { return nil }, w), w.Close())
	}()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil { // the image has begun
		t.Fatal(err)
	}

	leader.Writer().SetRecord("kind", "name", []byte("after"))
	fill(t, leader, 100, 100)
	adopt(t, follower, leader)
	compareHashes(t, leader, follower)
	checkRecords(t, follower, &model{records: map[recordKey]string{{"kind", "name"}: "after"}})

	close(leave)
	rest, err := io.ReadAll(r)
	if err = errors.Join(err, <-read, <-streamed); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "limpet.db")
	if err := os.WriteFile(path, append(first, rest...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := hashOf(t, newStore(t, Config{Path: path, Owner: 2})); got != before {
		t.Errorf("the image begun before is %+v, want %+v", got, before)
	}
	// The last connection to the file before is closed by now, and the WAL of
	// the one in use is still there.
	put(follower, "later", "x")
	flush(t, follower)
	want := hashOf(t, follower)
	if got := hashOf(t, restart(t, follower, false)); got != want {
		t.Errorf("after a power cut %+v, want %+v", got, want)
	}
}

// TestAdoptWhileCompacting: a compaction that was under way is forgotten, and
// the one that the image's sender had just begun is done.
func TestAdoptWhileCompacting(t *testing.T) {
	const keys = 6000 // several slices
	image := ""
	var leader *Store
	dir := t.TempDir()
	leader = newStore(t, Config{Owner: 1, Observe: Observer{Flush: func(time.Duration, int) {
		if leader.keeper.flushed > 0 && image == "" { // the floor is in the file, and so are the rows
			image = copyDatabase(t, leader.cfg.Path, dir)
		}
	}}})
	removing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	follower := newStore(t, Config{Owner: 2, Observe: Observer{Slice: func(time.Duration) {
		once.Do(func() { close(removing); <-goOn })
	}}})
	for _, s := range []*Store{leader, follower} {
		fill(t, s, keys, 10)
		w := s.Writer()
		for i := range keys { // what the follower forgets, the leader puts again
			w.Begin(0)
			w.Delete(fmt.Sprintf("/registry/things/%07d", i))
			w.End()
		}
		put(s, "other", "1")
	}
	fill(t, leader, keys, 10)
	fill(t, leader, keys, 10)
	compact(t, leader, leader.Rev()-10)
	waitCompacted(t, leader)
	compact(t, follower, follower.Rev())
	<-removing
	waited := make(chan error, 1)
	// Owner: this test; ends with the compaction of what was adopted.
	go func() { waited <- follower.WaitCompacted(t.Context(), leader.Floor()) }()
	alter(t, image, "SELECT 1") // makes one file of it and its WAL
	a := adoption{path: follower.cfg.Path, image: image, owner: 2}
	index, at, err := a.prepare(position{applied: follower.Applied(), rev: follower.Rev(), floor: follower.Floor()})
	if err != nil {
		t.Fatal(err)
	}
	adopted := make(chan error, 1)
	// Owner: this test; ends with the adoption, after this slice or the next.
	go func() {
		adopted <- follower.keeper.do(t.Context(), func() error { return follower.keeper.adopt(a, index, at) })
	}()
	close(goOn)
	if err := errors.Join(<-adopted, <-waited); err != nil {
		t.Fatal(err)
	}
	compareHashes(t, leader, follower)
	got, want := count(t, follower, "SELECT count(*) FROM revisions"), count(t, leader, "SELECT count(*) FROM revisions")
	if got != want || follower.Stats().Keys != keys+1 {
		t.Errorf("%d rows and %d keys are left, want %d and %d", got, follower.Stats().Keys, want, keys+1)
	}
}

// TestAdoptWakes: an adoption is what those wait for who wait for an index to
// be applied or durable.
func TestAdoptWakes(t *testing.T) {
	leader, follower := newStore(t, Config{Owner: 1}), newStore(t, Config{Owner: 2})
	fill(t, leader, 5000, 10)
	woken := make(chan error, 2)
	// Owner: this test, for both; each ends with the adoption.
	go func() { woken <- follower.WaitApplied(t.Context(), leader.Applied()) }()
	go func() { woken <- follower.WaitDurable(t.Context(), leader.Applied()) }()
	adopt(t, follower, leader)
	if err := errors.Join(<-woken, <-woken); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileAdopting: whichever comes first, the next start comes to the
// end of the adoption.
func TestCloseWhileAdopting(t *testing.T) {
	for range 8 {
		c, behind, ahead := behindAndAhead(t)
		s := c.open(t)
		adopted := make(chan error, 1)
		// Owner: this test; ends with the adoption or with Close.
		go func() { adopted <- s.Adopt(c.image()) }()
		s.Interrupt()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		want := ahead
		if err := <-adopted; errors.Is(err, ErrClosed) {
			want = behind
		} else if err != nil {
			t.Errorf("Adopt: %v, want nothing or ErrClosed", err)
		}
		again := c.open(t)
		if got := hashOf(t, again); got != want {
			t.Errorf("the next start finds %+v, want %+v", got, want)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		adoptFileTwice(t, c, ahead)
	}
}

// TestAdoptFailsBeforeTheMove: when the files cannot change places, the store
// goes on with the old ones, durably, and the adoption can be tried again.
func TestAdoptFailsBeforeTheMove(t *testing.T) {
	c, _, ahead := behindAndAhead(t)
	s := c.open(t)
	put(s, "unflushed", "1")
	a := adoption{path: c.path(), image: c.image(), owner: 2}
	index, at, err := a.prepare(position{applied: s.Applied(), rev: s.Rev(), floor: s.Floor()})
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := c.path() + "-shm" + asideSuffix
	if err := os.MkdirAll(filepath.Join(inTheWay, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.keeper.do(t.Context(), func() error { return s.keeper.adopt(a, index, at) }); err == nil {
		t.Fatal("adopt moved a file over a folder")
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	put(s, "went on", "1")
	flush(t, s)
	want := hashOf(t, s)
	if got := hashOf(t, restart(t, s, false)); got != want {
		t.Errorf("after a power cut %+v, want %+v", got, want)
	}
	s = c.open(t)
	if err := s.Adopt(c.image()); err != nil {
		t.Fatal(err)
	}
	if got := hashOf(t, s); got != ahead {
		t.Errorf("after Adopt %+v, want %+v", got, ahead)
	}
}

// TestAdoptFailsAfterTheMove: a store that cannot open what it has adopted says
// so, writes nothing any more, and is right once it is opened again.
func TestAdoptFailsAfterTheMove(t *testing.T) {
	c, _, ahead := behindAndAhead(t)
	s, err := Open(Config{Path: c.path(), Owner: 2, FlushAge: never})
	if err != nil {
		t.Fatal(err)
	}
	pragmas := readerPragmas
	readerPragmas = append(slices.Clip(pragmas), "this is no pragma")
	err = s.Adopt(c.image())
	readerPragmas = pragmas
	if err == nil || s.Err() == nil || errors.Is(err, ErrImageRefused) {
		t.Fatalf("Adopt: %v, and Err: %v; want both to say that the store must be opened again", err, s.Err())
	}
	put(s, "lost", "1") // it is in the log
	if v, ok := get(t, s, "in the WAL", s.Rev()); !ok || v != "1" {
		t.Errorf("a read of the state before: %q, %v; want 1", v, ok)
	}
	if err := s.Adopt(c.image()); err == nil {
		t.Error("Adopt again: got no error")
	}
	if err := s.Close(); err == nil {
		t.Error("Close said nothing of what it could not write")
	}
	adoptFileTwice(t, c, ahead)
}
