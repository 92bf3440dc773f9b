package side

import (
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// planned is a step and what the generator learns from the reference's answer to it.
type planned struct {
	step Step
	then func(Answer)
}

// Generator makes steps. What it makes depends on its seed and on the answers it was shown.
type Generator struct {
	rng *rand.Rand

	// attachAuto lets leases be attached to keys whose ID the server chose; HashKV values then
	// cannot be equal.
	attachAuto bool

	queue       []func() planned // made when their turn comes, before anything new is drawn
	rev         int64            // the store's revision, as last heard
	compacted   int64            // the last compaction, 0 for none
	compactions map[int64]bool   // all of them
	leases      leasePlan
	watches     watchPlan
	alarms      alarmPlan
	auth        *authPlan // nil in sessions without users
}

// NewGenerator makes a generator for a seed.
func NewGenerator(seed uint64) *Generator {
	return &Generator{
		rng:         rand.New(rand.NewPCG(seed, 0x6c696d706574)),
		attachAuto:  seed%4 == 3,
		rev:         1,
		watches:     newWatchPlan(),
		compactions: map[int64]bool{},
	}
}

// kinds are the things to do, drawn by weight.
var kinds = []struct {
	weight int
	plan   func(*Generator)
}{
	{190, (*Generator).planRange},
	{50, (*Generator).planRangeStream},
	{190, (*Generator).planPut},
	{70, (*Generator).planDelete},
	{200, (*Generator).planTxn},
	{18, (*Generator).planCompact},
	{90, (*Generator).planLease},
	{110, (*Generator).planWatch},
	{75, (*Generator).planMaintenance},
	{10, (*Generator).planAlarm},
	{25, (*Generator).planDamaged},
}

// authShare is how many of a hundred draws concern users, in sessions that have them.
const authShare = 22

// next draws the next step.
func (g *Generator) next() planned {
	g.alarms.tick(g)
	g.watches.tick(g)
	g.auth.tick(g)
	for len(g.queue) == 0 {
		if g.auth != nil && g.chance(authShare) {
			g.planAuth()
		} else {
			g.draw()
		}
	}
	return g.queued()
}

// draw plans something of one of the kinds.
func (g *Generator) draw() {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := g.rng.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			k.plan(g)
			return
		}
	}
}

// queued takes the first step of the queue.
func (g *Generator) queued() planned {
	make := g.queue[0]
	g.queue = g.queue[1:]
	p := make()
	p.step = g.auth.as(g, p.step)
	return p
}

// add queues a step; then may be nil.
func (g *Generator) add(step Step, then func(Answer)) {
	g.later(func() planned { return planned{step, then} })
}

// later queues a step that is made when its turn comes.
func (g *Generator) later(make func() planned) { g.queue = append(g.queue, make) }

// call queues a unary request.
func (g *Generator) call(method string, req proto.Message, then func(Answer)) {
	g.add(Call{Method: method, Request: req, Metadata: g.metadata()}, then)
}

// metadata is what official clients send along, on some requests.
func (g *Generator) metadata() map[string]string {
	switch g.rng.IntN(20) {
	case 0:
		return map[string]string{"hasleader": "true"}
	case 1:
		return map[string]string{"client-api-version": "3.7"}
	case 2:
		return map[string]string{"token": "not-a-token"}
	}
	return nil
}

// learn takes the store's revision from a reference's answer.
func (g *Generator) learn(a Answer) {
	for _, m := range a.Messages {
		if h, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
			g.rev = max(g.rev, h.GetHeader().GetRevision())
		}
	}
}

// chance is true n times in a hundred.
func (g *Generator) chance(n int) bool { return g.rng.IntN(100) < n }

func pick[T any](g *Generator, from ...T) T { return from[g.rng.IntN(len(from))] }
