package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecoveryOfNothing: a mistyped folder is refused by its name, and not made.
func TestRecoveryOfNothing(t *testing.T) {
	cfg := DefaultConfig()
	for what, dir := range map[string]string{"no folder": filepath.Join(t.TempDir(), "none"), "an empty one": t.TempDir()} {
		cfg.DataDir = dir
		if _, err := OpenRecovery(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "there is no member in "+dir) {
			t.Errorf("%s: %v, want that there is no member", what, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("%s: %v was made", what, entries)
		}
	}
}

// TestSurveyQuorum: only voters count, and this member does.
func TestSurveyQuorum(t *testing.T) {
	here, there, gone := Survivor{Here: true, Answers: true, Voter: true}, Survivor{Answers: true, Voter: true}, Survivor{Voter: true}
	learner := Survivor{Answers: true}
	for _, c := range []struct {
		members []Survivor
		want    bool
	}{
		{[]Survivor{here, gone, gone}, false},
		{[]Survivor{here, there, gone}, true},
		{[]Survivor{here, gone}, false},
		{[]Survivor{here, learner, gone}, false},
		{[]Survivor{here, there, gone, gone}, false},
		{[]Survivor{here, there, there, gone, gone}, true},
	} {
		if got := (&Survey{Members: c.members}).Quorum(); got != c.want {
			t.Errorf("%+v: quorum %v, want %v", c.members, got, c.want)
		}
	}
}
