package sqlstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Measured on 2026-11-22, 2 cores shared with other work, go1.26, linux/amd64:
//
//	Append     5.0 µs a put
//	Get       20   µs a row from disk
//	List       4.1 ms for 500 rows of 1 KiB from disk
//	Open     450   ms for 100 000 revisions
//	Hash      78   ms for 20 000 revisions
//	Publish   30   ns an empty batch, whether nobody or a thousand wait for later
//	          indexes; 0.2 µs more for each goroutine it wakes
//	Adopt    500   ms for 100 MB of 100 000 keys, 1.6 s of 500 000; memory grows by
//	          21 and 78 MB meanwhile, on 35 and 131 MB. quick_check is 130 ms of it,
//	          the scan of the keys most of the rest

// fill makes n keys of size bytes, 1000 to a batch.
func fill(b testing.TB, s *Store, n, size int) {
	b.Helper()
	w := s.Writer()
	value := make([]byte, size)
	for i := range n {
		w.Begin(0)
		w.Put(fmt.Sprintf("/registry/things/%07d", i), value, 0)
		w.End()
		if i%1000 == 999 {
			w.Publish(s.Applied() + 1)
		}
	}
	w.Publish(s.Applied() + 1)
}

// BenchmarkAppend is the cost of a put of 256 bytes, flushes included.
func BenchmarkAppend(b *testing.B) {
	s := newStore(b, Config{})
	w := s.Writer()
	value := make([]byte, 256)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		w.Begin(0)
		w.Put(fmt.Sprintf("key%06d", i%100_000), value, 0)
		w.End()
		if i%64 == 63 {
			w.Publish(s.Applied() + 1)
		}
	}
	w.Publish(s.Applied() + 1)
	flush(b, s)
}

// BenchmarkGet reads random keys from disk, without cache or tail.
func BenchmarkGet(b *testing.B) {
	s := newStore(b, Config{TailBytes: -1, CacheBytes: -1})
	fill(b, s, 20_000, 256)
	flush(b, s)
	v := s.View()
	for b.Loop() {
		if row, err := v.Get(fmt.Sprintf("/registry/things/%07d", rand.IntN(20_000))); row == nil || err != nil {
			b.Fatal(row, err)
		}
	}
}

// BenchmarkList lists 500 of 20 000 keys of 1 KiB, from disk.
func BenchmarkList(b *testing.B) {
	s := newStore(b, Config{TailBytes: -1, CacheBytes: -1})
	fill(b, s, 20_000, 1024)
	flush(b, s)
	v := s.View()
	for b.Loop() {
		from := fmt.Sprintf("/registry/things/%07d", rand.IntN(19_500))
		if res, err := v.Range(from, "", RangeOptions{Limit: 500, NoCount: true}); len(res.Rows) != 500 || err != nil {
			b.Fatal(len(res.Rows), err)
		}
	}
}

// BenchmarkOpen rebuilds the index of 100 000 revisions.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "limpet.db")
	s, err := Open(Config{Path: path, FlushAge: never})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, s, 100_000, 64)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(Config{Path: path, FlushAge: never})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHash hashes a history of 20 000 revisions.
func BenchmarkHash(b *testing.B) {
	s := newStore(b, Config{TailBytes: -1})
	fill(b, s, 20_000, 256)
	flush(b, s)
	for b.Loop() {
		if _, err := s.HashKV(context.Background(), 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish publishes empty batches: with nobody waiting for an index,
// with a thousand who wait for later ones, and with a thousand whom each batch
// wakes.
func BenchmarkPublish(b *testing.B) {
	const waiters = 1000
	b.Run("nobody", func(b *testing.B) {
		s, index := newStore(b, Config{}), uint64(0)
		for b.Loop() {
			index++
			s.Writer().Publish(index)
		}
	})
	b.Run("later", func(b *testing.B) {
		s, index := newStore(b, Config{}), uint64(0)
		ctx, cancel := context.WithCancel(b.Context())
		waited := waitAll(s, waiters, func(i int) error { return s.WaitApplied(ctx, 1<<60+uint64(i)%3) })
		for b.Loop() {
			index++
			s.Writer().Publish(index)
		}
		cancel()
		waited.Wait()
	})
	b.Run("woken", func(b *testing.B) {
		s, index := newStore(b, Config{}), uint64(0)
		for b.Loop() {
			b.StopTimer()
			index++
			waited := waitAll(s, waiters, func(int) error { return s.WaitApplied(b.Context(), index) })
			b.StartTimer()
			s.Writer().Publish(index)
			b.StopTimer()
			waited.Wait()
			b.StartTimer()
		}
	})
}

// waitAll starts n waits and returns when all wait.
func waitAll(s *Store, n int, wait func(i int) error) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range n {
		// Owner: the benchmark, which waits for it; ends with its index or context.
		wg.Go(func() { _ = wait(i) })
	}
	for s.arrivals.count() < n {
		runtime.Gosched()
	}
	return &wg
}

// count is how many goroutines wait.
func (x *arrivals) count() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, a := range x.waits {
		n += a.n
	}
	return n
}

// BenchmarkAdopt adopts 100 MB of 100 000 keys, and of 500 000.
func BenchmarkAdopt(b *testing.B) {
	for _, size := range []int{900, 180} {
		b.Run(fmt.Sprint(90_000_000/size, " keys"), func(b *testing.B) {
			leader, follower := newStore(b, Config{Owner: 1}), newStore(b, Config{Owner: 2})
			fill(b, leader, 90_000_000/size, size)
			image := filepath.Join(b.TempDir(), "image")
			for b.Loop() {
				b.StopTimer()
				writeImage(b, leader, image)
				b.StartTimer()
				if err := follower.Adopt(image); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
