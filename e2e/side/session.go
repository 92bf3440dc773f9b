package side

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
)

const stopDeadline = 30 * time.Second

// Session runs the steps of one seed on a Pair.
type Session struct {
	*Pair
	members []*Pair // of a cluster of several; nil if Pair is all there is

	// MaxMismatches ends a session early.
	MaxMismatches int

	seed      uint64
	gen       *Generator
	restartAt int // a step chosen by the seed, so that fewer steps replay the same story
	done      int // steps run
	found     int // mismatches
	diverged  bool
	outcomes  map[string]int // steps by kind and outcome
}

// NewSession starts a pair of servers, etcd and subject, and a generator for seed.
func NewSession(t testing.TB, seed uint64, subject proc.Kind, options ...proc.Option) *Session {
	t.Helper()
	s := newSession(t, seed, NewGenerator(seed), NewPair(t, subject, options...))
	s.restartAt = 600 + s.gen.rng.IntN(900)
	return s
}

// NewAuthSession is a session among users, on clusters of size members each. The calls go to the
// members in turn, save those on watch streams.
func NewAuthSession(t testing.TB, seed uint64, subject proc.Kind, size int, flags ...string) *Session {
	t.Helper()
	clusters := NewClusters(t, subject, size, flags...)
	clusters.Settle()
	s := newSession(t, seed, NewAuthGenerator(seed), clusters.At(1))
	s.restartAt = 300 + s.gen.rng.IntN(500)
	if size > 1 {
		s.restartAt = never
		for n := 1; n <= size; n++ {
			s.members = append(s.members, clusters.At(n))
			s.members[n-1].comparer = s.comparer
		}
	}
	return s
}

// never is no number of a step.
const never = -1

func newSession(t testing.TB, seed uint64, gen *Generator, pair *Pair) *Session {
	t.Helper()
	s := &Session{MaxMismatches: 8, Pair: pair, seed: seed, gen: gen, outcomes: map[string]int{}}
	if s.gen.attachAuto {
		s.comparer = NewComparer(autoLeaseRule)
	}
	s.gen.watches.record = s.record
	s.openRecorder(2)
	return s
}

func (s *Session) openRecorder(rev int64) {
	s.t.Helper()
	s.compare(s.gen.auth.asRoot(WatchOpen{recorderHandle}), nil)
	s.compare(WatchCreate{recorderHandle, recorderRequest(rev), false}, nil)
}

func (s *Session) record(rev int64) {
	ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
	defer cancel()
	if err := s.gen.watches.history.recordUntil(ctx, s.Reference, rev); err != nil {
		s.t.Fatalf("seed %d step %d: %v", s.seed, s.done, err)
	}
}

// Run runs n generated steps, with one restart of both servers on the way, and compares what is
// left of the events at the end.
func (s *Session) Run(n int) {
	s.t.Helper()
	for s.done < n && !s.tired() {
		if s.done == s.restartAt {
			s.restart()
		}
		s.step(s.gen.next())
	}
	s.gen.watches.settle(s.gen)
	s.drain()
	if !s.tired() {
		s.step(planned{s.gen.auth.asRoot(Call{Method: "/etcdserverpb.KV/Range", Request: recorderRange()}), nil})
	}
	s.t.Logf("seed %d: %d steps to revision %d, %d mismatches; outcomes:%s", s.seed, s.done, s.gen.rev, s.found, s.summary())
}

// drain runs what is queued and draws nothing new.
func (s *Session) drain() {
	s.t.Helper()
	for len(s.gen.queue) > 0 && !s.tired() {
		s.step(s.gen.queued())
	}
}

// tired: after a difference in state, what follows says nothing new.
func (s *Session) tired() bool { return s.diverged || s.found >= s.MaxMismatches }

func (s *Session) step(p planned) {
	s.t.Helper()
	s.compare(p.step, p.then)
	s.done++
}

// compare runs one step on both sides.
func (s *Session) compare(step Step, then func(Answer)) {
	s.t.Helper()
	want, got, ds := s.at(step).run(step)
	if len(ds) > 0 {
		s.report(step, want, got, ds)
	}
	if want.Code == codes.OK {
		s.catchUp()
	}
	bare := step
	if as, ok := step.(As); ok {
		bare = as.Step
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(bare.String(), "/etcdserverpb."), " ")
	s.outcomes[fmt.Sprintf("%-28s %v", kind, want.Code)]++
	s.gen.learn(want)
	if then != nil {
		then(want)
	}
}

// at is where a step is to be done.
func (s *Session) at(step Step) *Pair {
	if as, ok := step.(As); ok {
		step = as.Step
	}
	switch step.(type) {
	case WatchOpen, WatchCreate, WatchCancel, WatchProgress, WatchEmpty, WatchHalfClose, WatchClose, WatchSync:
		return s.Pair
	}
	if s.members == nil {
		return s.Pair
	}
	return s.members[s.done%len(s.members)]
}

// catchUp has each member say where auth stands, for which it has to have applied what was answered
// elsewhere: what followers answer from their own state is then the same on both sides.
func (s *Session) catchUp() {
	s.t.Helper()
	for _, m := range s.members {
		if want, got, ds := m.run(authStatus()); len(ds) > 0 {
			s.report(authStatus(), want, got, ds)
		}
	}
}

// summary lists how often what happened, so that a reader can judge what a session covers.
func (s *Session) summary() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(s.outcomes)) {
		fmt.Fprintf(&b, "\n  %5d %s", s.outcomes[kind], kind)
	}
	return b.String()
}

func (s *Session) report(step Step, want, got Answer, ds []Difference) {
	s.t.Helper()
	s.found++
	test, _, _ := strings.Cut(s.t.Name(), "/")
	s.t.Errorf("mismatch: seed %d step %d\n%s  replay: E2E_SEED=%d E2E_STEPS=%d go test -run %s .",
		s.seed, s.done, s.describe(step, want, got, ds), s.seed, s.done+1, test)
	var a, b Generator
	a.learn(want)
	b.learn(got)
	s.diverged = a.rev != b.rev && b.rev != 0
}
