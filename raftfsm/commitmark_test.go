package raftfsm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// The log holds indexes 1 to 5 of term 1 and 6 to 8 of term 3: what a mark says
// of it is believed only where the terms agree.
func TestCommitMark(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	l.append(1, 5)
	if err := l.StoreLogs([]*raft.Log{{Index: 6, Term: 3}, {Index: 7, Term: 3}, {Index: 8, Term: 3}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name              string
		index, term, want uint64
	}{
		{"in the log", 4, 1, 4},
		{"at its end", 8, 3, 8},
		{"beyond, in the term of the end", 9, 3, 8},
		{"beyond, in a later term", 9, 4, 0},
		{"of an entry that was replaced", 7, 2, 0},
		{"of another log", 5, 3, 0},
		{"nothing", 0, 0, 0},
	} {
		m, err := openCommitMark(filepath.Join(t.TempDir(), commitMarkName))
		if err != nil {
			t.Fatal(err)
		}
		m.note(c.index, c.term)
		if got := m.committed(l.logStore); got != c.want {
			t.Errorf("%s: index %d of term %d: got %d, want %d", c.name, c.index, c.term, got, c.want)
		}
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}
}

// A mark that is missing, cut or torn says nothing, and a closed one harms
// nobody.
func TestCommitMarkDamaged(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	l.append(1, 5)
	path := filepath.Join(t.TempDir(), commitMarkName)
	m, err := openCommitMark(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.committed(l.logStore); got != 0 {
		t.Errorf("no mark: got %d, want 0", got)
	}
	m.note(5, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		torn := append([]byte(nil), whole...)
		torn[i]++
		for _, data := range [][]byte{torn, whole[:i]} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := m.committed(l.logStore); got != 0 {
				t.Errorf("% x: got %d, want 0", data, got)
			}
		}
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
	m.note(6, 1)
	if err := m.close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// A member that is killed again while it applies what it knew does not know less
// then.
func TestCommitMarkGoesForward(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	l.append(1, 5)
	path := filepath.Join(t.TempDir(), commitMarkName)
	for _, step := range []struct{ note, want uint64 }{{4, 4}, {2, 4}, {5, 5}} {
		m, err := openCommitMark(path)
		if err != nil {
			t.Fatal(err)
		}
		m.committed(l.logStore)
		m.note(step.note, 1)
		if got := m.committed(l.logStore); got != step.want {
			t.Errorf("after index %d: got %d, want %d", step.note, got, step.want)
		}
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}
}
