package server

import "sync/atomic"

// Doing says what a member that starts is doing, for whoever waits for it. The
// zero value is ready; both methods may be called concurrently.
type Doing struct{ now atomic.Pointer[func() string] }

// String is what the member does now, in words; empty before the start and after
// it.
func (d *Doing) String() string {
	if f := d.now.Load(); f != nil {
		return (*f)()
	}
	return ""
}

func (d *Doing) set(f func() string) {
	if d != nil {
		d.now.Store(&f)
	}
}

// does says what a stage of the start does, or what the member waits for in it.
func (s *Server) does(stage string) {
	local := s.local // now: others ask while a stage sets it
	s.cfg.Doing.set(func() string {
		if local != nil {
			if what := local.Doing(); what != "" {
				return "waiting: " + what
			}
		}
		return stage
	})
}
