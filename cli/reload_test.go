package cli

import (
	"testing"
)

func TestLevelInFile(t *testing.T) {
	for content, want := range map[string]string{
		"name: a":                       "info",
		"log-level: warn":               "warn",
		"debug: true":                   "debug", // etcd 3.3
		"debug: true\nlog-level: error": "error",
		"log-level:\nunknown-key: 1":    "info",
		"client-transport-security: {}": "info",
	} {
		if got, err := levelInFile(writeFile(t, "limpet.yml", content)); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", content, got, err, want)
		}
	}
	_, err := levelInFile(writeFile(t, "limpet.yml", "log-level: [a"))
	if err == nil {
		t.Error("a file that is no YAML has a level")
	}
}

// The level changes under those who have the log already.
func TestLogLevelChanges(t *testing.T) {
	book, err := openLog("warn", "json", "default")
	if err != nil {
		t.Fatal(err)
	}
	defer book.close()
	child := book.With("member", "1")
	if child.Enabled(t.Context(), -4) {
		t.Error("debug is let through at warn")
	}
	if err := book.setLevel("debug"); err != nil {
		t.Fatal(err)
	}
	if !child.Enabled(t.Context(), -4) {
		t.Error("debug is not let through at debug")
	}
	wantError(t, book.setLevel("loud"), `--log-level is "loud", want debug, info, warn or error`)
	if got := book.levelName(); got != "debug" {
		t.Errorf("after a bad level: got %s, want the one before, debug", got)
	}
}
