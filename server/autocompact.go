package server

import (
	"context"
	"log/slog"
	"time"
)

// compactor asks for compactions of its own accord, on the leader. Its rules
// are etcd's: periodic samples the revision ten times per period (per hour, if
// that is shorter) and compacts to what was current one period ago; revision
// compacts every five minutes to what leaves the number of revisions asked for.
type compactor struct {
	keep    retention
	rev     func() int64
	leading func() bool
	compact func(ctx context.Context, rev int64) error
	log     *slog.Logger
}

const (
	revisionInterval = 5 * time.Minute
	samplesPerPeriod = 10
)

func (c *compactor) run(ctx context.Context) {
	switch {
	case c.keep.period > 0:
		c.periodic(ctx)
	case c.keep.revisions > 0:
		c.byRevision(ctx)
	}
}

func (c *compactor) periodic(ctx context.Context) {
	interval := max(min(c.keep.period, time.Hour)/samplesPerPeriod, time.Millisecond)
	retained := int(c.keep.period/interval) + 1
	samples := []int64{c.rev()}
	last, since, wait := int64(0), time.Now(), c.keep.period
	for c.sleep(ctx, interval) {
		// samples[0] was current one period ago.
		if rev := samples[0]; time.Since(since) >= wait && rev != last && c.do(ctx, rev) {
			last, since, wait = rev, time.Now(), min(c.keep.period, time.Hour)
		}
		if samples = append(samples, c.rev()); len(samples) > retained {
			samples = samples[1:]
		}
	}
}

func (c *compactor) byRevision(ctx context.Context) {
	last := int64(0)
	for c.sleep(ctx, revisionInterval) {
		if rev := c.rev() - c.keep.revisions; rev > 0 && rev != last && c.do(ctx, rev) {
			last = rev
		}
	}
}

func (c *compactor) sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (c *compactor) do(ctx context.Context, rev int64) bool {
	if !c.leading() {
		return false
	}
	if err := c.compact(ctx, rev); err != nil {
		c.log.Warn("auto compaction failed; trying again at the next interval", "revision", rev, "error", err)
		return false
	}
	c.log.Info("auto compaction done", "revision", rev)
	return true
}
