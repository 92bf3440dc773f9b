package server

import (
	"log/slog"
	"testing"
)

// Whoever waits for a member may ask all the time what it does.
func TestDoing(t *testing.T) {
	cfg := newConfig(t)
	cfg.Doing = new(Doing)
	asked, ended := make(chan struct{}), make(chan struct{})
	// Owner: this test; ends when asked is closed.
	go func() {
		defer close(ended)
		for {
			select {
			case <-asked:
				return
			default:
				_ = cfg.Doing.String()
			}
		}
	}()
	s, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	close(asked)
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Doing.String(); got != "" {
		t.Errorf("a member that serves does %q, want nothing", got)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
