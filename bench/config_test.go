package main

import (
	"testing"
	"time"
)

func TestQuickChangesDefaultsOnly(t *testing.T) {
	c, err := parseFlags([]string{"-quick", "-rounds", "7"})
	if err != nil || c.rounds != 7 || c.duration != 2*time.Second || c.revisions != 50_000 {
		t.Errorf("-quick -rounds 7 = %+v, %v; want 7 rounds and short windows", c, err)
	}
	if c, err := parseFlags(nil); err != nil || c.rounds != 5 || c.revisions != defaultRevisions {
		t.Errorf("no flags = %+v, %v", c, err)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"extra"}, {"-duration", "1ms"}} {
		if _, err := parseFlags(bad); err == nil {
			t.Errorf("parseFlags(%q) gave no error", bad)
		}
	}
}
