//go:build linux

package hosts

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"limpet/e2e/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen; nothing here is expected to take long.
const patience = 30 * time.Second

func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := proc.Eventually(ctx, 20*time.Millisecond, check); err != nil {
		t.Fatal(err)
	}
}
