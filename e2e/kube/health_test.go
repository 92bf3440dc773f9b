package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// quickly is how soon the API server has to see that its store is gone or back.
// It asks each second at most, with two seconds of patience.
const quickly = 15 * time.Second

// Readiness follows the store: red when it has stopped, red when it hangs with
// its connections open, and green again soon after it is back.
func TestReadinessFollowsTheStore(t *testing.T) {
	c, ctx := story(t)
	t.Cleanup(func() {
		if t.Failed() {
			_ = c.Store.process.Thaw() // it may have been left frozen, or be dead
		}
	})
	outages := []struct {
		name       string
		begin, end func() error
	}{
		{
			"stopped",
			func() error { return orderly(c.Store) },
			func() error { return c.Store.Start(ctx) },
		},
		{"frozen", func() error { return c.Store.process.Freeze() }, func() error { return c.Store.process.Thaw() }},
	}
	for _, outage := range outages {
		must(t, outage.name, outage.begin())
		until(t, ctx, quickly, "red while the store is "+outage.name, func(ctx context.Context) error {
			_, err := c.Get(ctx, "/readyz?verbose")
			if err == nil {
				return errors.New("still green")
			}
			if !strings.Contains(err.Error(), "[-]etcd") {
				return fmt.Errorf("red for another reason: %w", err)
			}
			return nil
		})
		must(t, "end of "+outage.name, outage.end())
		until(t, ctx, quickly, "green after the store was "+outage.name, c.Ready)
	}
}

// orderly stops the store by SIGTERM, with all the API server's watches open.
// limpet promises exit status 0; etcd dies of the signal it raises again.
func orderly(s *Store) error {
	if err := s.Stop(); err != nil && (s.Kind == Limpet || errors.Is(err, errStillRunning)) {
		return err
	}
	return nil
}
