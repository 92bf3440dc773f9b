package side

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"limpet/e2e/proc"
)

// Pair is etcd and the server to judge, side by side.
type Pair struct {
	Reference *Target
	Subject   *Target

	t        testing.TB
	comparer *Comparer
}

// NewPair starts both servers with the same options.
func NewPair(t testing.TB, subject proc.Kind, options ...proc.Option) *Pair {
	t.Helper()
	return &Pair{
		Reference: NewTarget(t, "etcd", proc.Start(t, proc.Etcd, options...)),
		Subject:   NewTarget(t, string(subject), proc.Start(t, subject, options...)),
		t:         t,
		comparer:  NewComparer(),
	}
}

// Targets gives both, the reference first.
func (p *Pair) Targets() []*Target { return []*Target{p.Reference, p.Subject} }

// On gives the same servers for a subtest, whose t then hears of mismatches.
func (p *Pair) On(t testing.TB) *Pair {
	q := *p
	q.t = t
	return &q
}

// Over gives the same servers over other connections.
func (p *Pair) Over(over func(*Target) *Target) *Pair {
	q := *p
	q.Reference, q.Subject = over(p.Reference), over(p.Subject)
	return &q
}

// Do runs a step on both sides and gives the reference's answer; the test notes any difference.
func (p *Pair) Do(step Step) Answer {
	p.t.Helper()
	want, got, ds := p.run(step)
	if len(ds) > 0 {
		p.t.Errorf("mismatch\n%s", p.describe(step, want, got, ds))
	}
	return want
}

// run runs a step on both sides at the same time.
func (p *Pair) run(step Step) (want, got Answer, ds []Difference) {
	ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { want = step.Run(ctx, p.Reference) })
	both.Go(func() { got = step.Run(ctx, p.Subject) })
	both.Wait()
	return want, got, p.comparer.Answers(want, got)
}

// maxDifferences of one step are printed.
const maxDifferences = 10

func (p *Pair) describe(step Step, want, got Answer, ds []Difference) string {
	text := fmt.Sprintf("  request: %s\n", step)
	for i, d := range ds {
		if i == maxDifferences {
			text += fmt.Sprintf("  … and %d more differences\n", len(ds)-i)
			break
		}
		text += fmt.Sprintf("  %s\n", d)
	}
	return text + fmt.Sprintf("  %s answered:\n    %s\n  %s answered:\n    %s\n", p.Reference.Label, want, p.Subject.Label, got)
}
