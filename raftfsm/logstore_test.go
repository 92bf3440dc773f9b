package raftfsm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// testLog is a log whose entries are of 8 KiB: 32 make a sample.
type testLog struct {
	*logStore
	t *testing.T
}

const entriesPerSample = 33 // 32 entries and their overhead pass 256 KiB, the sample lies at the last

func openTestLog(t *testing.T, dir string, keep int64) testLog {
	t.Helper()
	l, err := openLogStore(dir, keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return testLog{l, t}
}

// append writes entries as raft does under load, a few at a time.
func (l testLog) append(from, to uint64) {
	l.t.Helper()
	for from <= to {
		var few []*raft.Log
		for ; from <= to && len(few) < 8; from++ {
			few = append(few, &raft.Log{Index: from, Term: 1, Data: make([]byte, 8<<10)})
		}
		if err := l.StoreLogs(few); err != nil {
			l.t.Fatalf("StoreLogs up to %d: %v", from-1, err)
		}
	}
}

func (l testLog) span() (first, last uint64) {
	l.t.Helper()
	first, err := l.FirstIndex()
	if err != nil {
		l.t.Fatal(err)
	}
	last, err = l.LastIndex()
	if err != nil {
		l.t.Fatal(err)
	}
	return first, last
}

func (l testLog) wantSpan(what string, first, last uint64) {
	l.t.Helper()
	if f, e := l.span(); f != first || e != last {
		l.t.Errorf("%s: the log spans %d to %d, want %d to %d", what, f, e, first, last)
	}
}

func (l testLog) deleteRange(from, to uint64) {
	l.t.Helper()
	if err := l.DeleteRange(from, to); err != nil {
		l.t.Fatalf("DeleteRange(%d, %d): %v", from, to, err)
	}
}

// Whatever raft asks to trim, the newest keep bytes stay, and not much more.
func TestTrimKeepsBytes(t *testing.T) {
	const keep = 1 << 20
	l := openTestLog(t, t.TempDir(), keep)
	l.append(1, 400) // 3.2 MiB
	l.deleteRange(1, 399)
	first, last := l.span()
	if last != 400 {
		t.Errorf("the last entry: got %d, want 400", last)
	}
	left := int64(last-first+1) * (8<<10 + 64)
	if left < keep || left > keep+2*sampleBytes {
		t.Errorf("entries %d to %d are left, %d bytes; want %d and at most two samples more", first, last, left, keep)
	}
	if size := l.size(); size < left-2*sampleBytes || size > left+2*sampleBytes {
		t.Errorf("size after the trim: got %d, with %d bytes left", size, left)
	}
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil || e.Index != i {
			t.Fatalf("GetLog(%d): %d, %v", i, e.Index, err)
		}
	}
	// Again at once: there is nothing to trim.
	l.deleteRange(first, 399)
	l.wantSpan("trimmed again", first, 400)
}

// Invariant I3 is raft's request: never is more trimmed than it asks for.
func TestTrimNoMoreThanAsked(t *testing.T) {
	l := openTestLog(t, t.TempDir(), sampleBytes)
	l.append(1, 400)
	l.deleteRange(1, 10)
	l.wantSpan("trimmed to 10", 11, 400)
	l.deleteRange(11, 200)
	l.wantSpan("trimmed to 200", 201, 400)
}

func TestTrimOfAShortLog(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	l.append(1, entriesPerSample)
	l.deleteRange(1, entriesPerSample-1)
	first, _ := l.span()
	if first > 2 {
		t.Errorf("a log shorter than what is to be kept: trimmed to %d", first)
	}
}

// A tail, or the whole log, goes exactly as asked, and the log goes on.
func TestTailIsCutExactly(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	l.append(1, 100)
	l.deleteRange(90, 100)
	l.wantSpan("tail cut", 1, 89)
	l.append(90, 150)
	l.wantSpan("written on", 1, 150)
	l.deleteRange(1, 150)
	l.wantSpan("all gone", 0, 0)
	l.append(1000, 1400) // after an image, raft begins further on
	l.wantSpan("begun anew", 1000, 1400)
	l.deleteRange(1000, 1399)
	if first, last := l.span(); first <= 1000 || last != 1400 {
		t.Errorf("trimmed after all that: the log spans %d to %d, want its head gone", first, last)
	}
}

// A log that lives on for many times its bound stays bounded on disk.
func TestLogFolderStaysBounded(t *testing.T) {
	dir := t.TempDir()
	const keep = 2 << 20
	l := openTestLog(t, dir, keep)
	from := uint64(1)
	for range 8 { // 4 MiB each
		l.append(from, from+511)
		from += 512
		first, _ := l.span()
		l.deleteRange(first, from-2)
	}
	// The kept bytes lie in at most two segments, beside the spare.
	if n := segments(t, dir); n > 3 {
		t.Errorf("segments after 32 MiB with %d bytes kept: got %d, want at most 3", keep, n)
	}
}

func segments(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestLogReopened(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 1<<20)
	l.append(1, 100)
	if err := l.Set([]byte("vote"), []byte("me")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A spare from a crash lies beside it, and files of nobody.
	for _, name := range []string{spareName, "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := openTestLog(t, dir, 1<<20)
	again.wantSpan("reopened", 1, 100)
	if got, err := again.Get([]byte("vote")); err != nil || string(got) != "me" {
		t.Errorf("the vote: got %q, %v, want me", got, err)
	}
	if size, files := again.size(), int64(segments(t, dir))*segmentBytes; size > files {
		t.Errorf("size after reopening: got %d, want at most the files' %d", size, files)
	}
	again.append(101, 700)
	again.deleteRange(1, 699)
	first, _ := again.span()
	if first <= 101 || first >= 700 {
		t.Errorf("trimmed after reopening: first entry %d, want one of those written since", first)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, spareName)); !os.IsNotExist(err) {
		t.Errorf("the spare after Close: got %v, want none", err)
	}
}

// Both ears hear of each write once, after it is on disk.
func TestLogTells(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	var heard []string
	l.onStored = func(time.Duration) {
		last, err := l.LastIndex()
		heard = append(heard, fmt.Sprintf("stored %d %v", last, err))
	}
	for i := range uint64(2) {
		if err := l.StoreLog(&raft.Log{Index: i + 1, Term: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.StoreLogs([]*raft.Log{{Index: 3, Term: 1}, {Index: 4, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := l.StoreLog(&raft.Log{Index: 9, Term: 1}); err == nil {
		t.Error("an entry that leaves a gap: got no error")
	}
	if want := []string{"stored 1 <nil>", "stored 2 <nil>", "stored 4 <nil>"}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}
