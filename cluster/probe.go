package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// probeFirst is the pause after the first probe, which may only have made the
	// connections; each further one is twice as long.
	probeFirst = time.Second
	// probeEvery is how often members are probed in the end.
	probeEvery = 10 * time.Second
)

// probe measures, until ctx ends, how long the other members take to answer; the
// port keeps the figures. It also keeps a connection to each, so that one that
// breaks is noticed.
func (l *line) probe(ctx context.Context) {
	for pause := probeFirst; ; pause = min(2*pause, probeEvery) {
		var wg sync.WaitGroup
		for _, m := range l.me.node.Load().Membership().Members {
			if m.ID == l.me.Identity().Member || !m.Started() {
				continue
			}
			// Owner: this call; ends with the answer or its deadline.
			wg.Go(func() {
				pctx, cancel := context.WithTimeout(ctx, askFor)
				defer cancel()
				if err := l.port.Probe(pctx, m.ID, memberPath+"Ping", new(emptypb.Empty), new(emptypb.Empty)); err != nil {
					l.me.log.Debug("a member does not answer", "member", hex(m.ID), "error", err)
				}
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
