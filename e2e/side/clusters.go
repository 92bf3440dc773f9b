package side

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/proc"
)

// Clusters is a cluster of etcds beside one of the servers to judge. The n-th member of the one has
// the part of the n-th of the other.
type Clusters struct {
	Reference *Cluster
	Subject   *Cluster

	t        testing.TB
	comparer *Comparer
}

// NewClusters founds both, of size members each, led by the first.
func NewClusters(t testing.TB, subject proc.Kind, size int, flags ...string) *Clusters {
	t.Helper()
	c := &Clusters{
		Reference: Found(t, proc.Etcd, size, flags...),
		Subject:   Found(t, subject, size, flags...),
		t:         t,
		comparer:  NewComparer(),
	}
	var others []int
	for n := 2; n <= size; n++ {
		others = append(others, n)
	}
	c.Lead(1, others...)
	return c
}

// On gives the same clusters for a subtest, whose t then hears of mismatches.
func (c *Clusters) On(t testing.TB) *Clusters {
	d := *c
	d.t = t
	return &d
}

// Sides gives both, the reference first.
func (c *Clusters) Sides() []*Cluster { return []*Cluster{c.Reference, c.Subject} }

// At is the n-th member of both.
func (c *Clusters) At(n int) *Pair {
	return &Pair{Reference: c.Reference.members[n], Subject: c.Subject.members[n], t: c.t, comparer: c.comparer}
}

// Lead makes the n-th member leader on both sides; these others follow it then.
func (c *Clusters) Lead(n int, others ...int) {
	c.t.Helper()
	var errs [2]error
	var both sync.WaitGroup
	for i, side := range c.Sides() {
		both.Go(func() { errs[i] = side.Lead(n, others...) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		c.t.Fatal(err)
	}
}

// Join prepares and starts the n-th member on both sides from the lines that etcdctl printed, in
// neutral names.
func (c *Clusters) Join(n int, lines []string) {
	c.t.Helper()
	for _, side := range c.Sides() {
		side.Join(n, lines)
	}
	c.Await(n)
}

// Await waits for the n-th member of both to serve.
func (c *Clusters) Await(n int) {
	c.t.Helper()
	for _, side := range c.Sides() {
		side.Await(n)
	}
}

// storageVersion is what etcd's members say once they have settled.
const storageVersion = "3.7.0"

// Settle waits for every member to say which version its storage has. The followers among etcd's learn
// that some seconds after the start, each for itself.
func (c *Clusters) Settle() {
	c.t.Helper()
	status := Call{Method: "/etcdserverpb.Maintenance/Status", Request: &pb.StatusRequest{}}
	for n := range c.Reference.members {
		c.At(n).Await(status, func(a Answer) bool {
			return len(a.Messages) == 1 && a.Messages[0].(*pb.StatusResponse).StorageVersion == storageVersion
		})
	}
}

// At is a step for the n-th members.
type At struct {
	Member int
	Step   Step
}

// Together does the steps at the same time: for those that take long because they wait.
func (c *Clusters) Together(steps ...At) {
	c.t.Helper()
	var all sync.WaitGroup
	for _, s := range steps {
		all.Go(func() { c.At(s.Member).Do(s.Step) })
	}
	all.Wait()
}

// Await repeats a step on each side until its answer is accepted there, then compares the two.
func (p *Pair) Await(step Step, accept func(Answer) bool) Answer {
	p.t.Helper()
	var answers [2]Answer
	var both sync.WaitGroup
	for i, target := range p.Targets() {
		both.Go(func() { answers[i] = p.await(target, step, accept) })
	}
	both.Wait()
	if ds := p.comparer.Answers(answers[0], answers[1]); len(ds) > 0 {
		p.t.Errorf("mismatch\n%s", p.describe(step, answers[0], answers[1], ds))
	}
	return answers[0]
}

// await gives the accepted answer, or the last one when patience ends.
func (p *Pair) await(target *Target, step Step, accept func(Answer) bool) (last Answer) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), clusterPatience, errors.New("deadline"))
	defer cancel()
	err := proc.Eventually(ctx, clusterPause, func() error {
		ctx, cancel := context.WithTimeout(ctx, stepDeadline)
		defer cancel()
		if last = step.Run(ctx, target); !accept(last) {
			return fmt.Errorf("%s answered %s", step, last)
		}
		return nil
	})
	if err != nil {
		p.t.Errorf("%s: %v", target.Label, err)
	}
	return last
}
