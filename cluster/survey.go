package cluster

import (
	"context"

	"limpet/txn"
)

// AskAny describes a member, asked wherever it was last seen; nil if it does
// not answer. It needs no cluster: Enter and Attach need not have been called.
func (l *Local) AskAny(ctx context.Context, m *txn.Member) *Description {
	addrs := []string{l.cfg.Roster.sighting(m.ID).Address}
	for _, u := range m.PeerURLs {
		addrs = append(addrs, hostOf([]string{u}))
	}
	for _, addr := range addrs {
		if addr == "" {
			continue
		}
		qctx, cancel := context.WithTimeout(ctx, askFor)
		d, err := l.describe(qctx, addr)
		cancel()
		if err == nil && d.ID == m.ID {
			return d
		}
	}
	return nil
}
