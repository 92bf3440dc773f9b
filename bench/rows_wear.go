package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The write pattern of an idle k3s: Lease objects of about 1 KiB, each renewed by its one holder through a
// compare-and-put. Leader elections renew every 2 s, nodes and API servers every 10 s: 14/2 + 10/10 = 8 updates/s.
const (
	wearFast       = 14
	wearFastPeriod = 2 * time.Second
	wearSlow       = 10
	wearSlowPeriod = 10 * time.Second
	wearValue      = 1 << 10
	// wearWarm lets servers get over their start, and every key be written once, before counting.
	wearWarm = 12 * time.Second
)

// wearRow measures what reaches the device under an idle k3s's writes: all sides at the same time, each member on an
// ext4 image of its own, one run of equal length. Figures of several members are sums.
func wearRow(name string, members int) *row {
	who := "idle k3s" + ofMembers(members)
	return &row{name: name, members: members, run: measureWear, metrics: []metric{
		{id: name + ".bytes", title: "bytes reaching the device, " + who, unit: "KiB/s", less: true, floor: 0.5, aim: 0.25},
		{id: name + ".flushes", title: "device flushes, " + who, unit: "/s", less: true, floor: 0.5, aim: 0.25},
		{id: name + ".writes", title: "device write requests, " + who, unit: "/s", less: true, beside: true},
		{id: name + ".pages", title: "written (write_bytes), " + who, unit: "KiB/s", less: true, beside: true},
		{id: name + ".cpu", title: "server CPU, " + who, unit: "ms/s", less: true, beside: true},
		{id: name + ".rss", title: "RSS at the end, " + who, unit: "MiB", less: true, beside: true},
		{id: name + ".p99", title: "update latency p99, " + who, unit: "ms", less: true, beside: true},
		{id: name + ".updates", title: "updates, " + who, unit: "/s", beside: true},
	}}
}

func measureWear(ctx context.Context, b *bench, r *row) error {
	b.remarkNoDevice(r)
	var wg sync.WaitGroup
	type outcome struct {
		got sample
		err error
	}
	sides := b.sidesOf(r)
	outcomes := make([]outcome, len(sides))
	for i, s := range sides {
		wg.Go(func() { // ends after the run
			outcomes[i].got, outcomes[i].err = b.measureWearOf(ctx, s, r)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, s := range sides {
		b.record(r, s, outcomes[i].got, outcomes[i].err, "1/1")
	}
	return nil
}

// remarkNoDevice says what a row lacks when this program may not mount devices.
func (b *bench) remarkNoDevice(r *row) {
	if os.Geteuid() != 0 {
		b.rec.remark(r.name + ": not root, so there is no device of its own to look at; write_bytes stands for the bytes.")
	}
}

// freshOnDisks starts a cluster whose members keep their data each on a device of its own, if they can be mounted.
func (b *bench) freshOnDisks(ctx context.Context, s *side, r *row) (*cluster, disks, error) {
	var bases, dirs []string
	for i := range max(1, r.members) {
		base := filepath.Join(b.work, fmt.Sprintf("%s-%s-%d", r.name, s.name, i+1))
		bases, dirs = append(bases, base), append(dirs, filepath.Join(base, "data"))
	}
	d, err := mountDisks(bases)
	if err != nil {
		return nil, nil, err
	}
	places, err := newPlaces(dirs...)
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	for i, base := range bases {
		places[i].log = base + ".log" // beside the device: it is not to count
	}
	c, err := s.startCluster(ctx, places, false)
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	return c, d, nil
}

func (b *bench) measureWearOf(ctx context.Context, s *side, r *row) (got sample, err error) {
	c, d, err := b.freshOnDisks(ctx, s, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(b.discard(c, err), d.close()) }()
	p, err := newPool(ctx, s, c.addresses(), wearFast+wearSlow) // one client for each kind of resource, as an API server has
	if err != nil {
		return nil, err
	}
	defer p.close()

	k := newIdleKubernetes(p)
	stop := k.run(ctx)
	defer stop()
	if err := sleep(ctx, wearWarm); err != nil {
		return nil, err
	}
	from, err := wearReading(d, c)
	if err != nil {
		return nil, err
	}
	k.count(true)
	if err := sleep(ctx, b.config.wear); err != nil {
		return nil, err
	}
	k.count(false)
	to, err := wearReading(d, c)
	if err != nil {
		return nil, err
	}
	mem, err := c.memory()
	if err != nil {
		return nil, err
	}
	if err := stop(); err != nil {
		return nil, err
	}
	return wearSample(r.name, from, to, mem, k.latencies, len(d) > 0), nil
}

// wearMoment is one reading of everything the wear row compares.
type wearMoment struct {
	at    time.Time
	cost  usage
	block blockStat
}

// wearReading syncs the file systems first, so that pages nobody has flushed yet are on the device and counted.
func wearReading(d disks, c *cluster) (m wearMoment, err error) {
	if m.block, err = d.read(); err != nil {
		return m, err
	}
	m.at = time.Now()
	m.cost, err = c.cost()
	return m, err
}

func wearSample(name string, from, to wearMoment, mem usage, latencies []time.Duration, onDevice bool) sample {
	seconds := to.at.Sub(from.at).Seconds()
	cost := to.cost.minus(from.cost)
	got := sample{
		name + ".pages":   float64(cost.written) / 1024 / seconds,
		name + ".cpu":     millis(cost.cpu) / seconds,
		name + ".rss":     mib(mem.rss),
		name + ".p99":     millis(percentile(latencies, 99)),
		name + ".updates": float64(len(latencies)) / seconds,
	}
	got[name+".bytes"] = got[name+".pages"]
	if onDevice {
		got[name+".bytes"] = float64(to.block.sectors-from.block.sectors) * sectorSize / 1024 / seconds
		got[name+".flushes"] = float64(to.block.flushes-from.block.flushes) / seconds
		got[name+".writes"] = float64(to.block.writes-from.block.writes) / seconds
	}
	return got
}

// idleKubernetes renews leases as an idle cluster does.
type idleKubernetes struct {
	pool *pool
	ks   *keyspace

	mu        sync.Mutex // guards what follows
	counting  bool
	latencies []time.Duration // while counting
}

func newIdleKubernetes(p *pool) *idleKubernetes {
	return &idleKubernetes{pool: p, ks: newKeyspace("/registry/leases/kube-system/holder-", wearFast+wearSlow)}
}

func (k *idleKubernetes) count(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counting = on
}

// run starts a holder for each lease. The returned function stops them and gives the first failure; calling it again
// does nothing more.
func (k *idleKubernetes) run(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	errStopped := errors.New("stopped")
	rng := rand.New(rand.NewPCG(8, 24)) // the same phases on every side
	var wg sync.WaitGroup
	for i := range k.ks.len() {
		period := wearFastPeriod
		if i >= wearFast {
			period = wearSlowPeriod
		}
		phase := time.Duration(rng.Int64N(int64(period)))
		wg.Go(func() { // ends with stop, or with the first failure of any holder
			if err := k.hold(ctx, i, phase, period); err != nil {
				cancel(err)
			}
		})
	}
	return func() error {
		cancel(errStopped)
		wg.Wait()
		if cause := context.Cause(ctx); !errors.Is(cause, errStopped) {
			return cause
		}
		return nil
	}
}

// hold renews lease i, first after phase and then once each period, with the few per cent of jitter that node leases
// have; the same on every side.
func (k *idleKubernetes) hold(ctx context.Context, i int, phase, period time.Duration) error {
	rng := rand.New(rand.NewPCG(9, uint64(i)))
	vals := values(wearValue)
	body := []byte(vals[i%len(vals)])
	for pause := phase; sleep(ctx, pause) == nil; {
		copy(body[200:], time.Now().UTC().Format(time.RFC3339Nano)) // renewTime; the rest of a Lease stays as it was
		began := time.Now()
		if err := k.pool.update(context.WithoutCancel(ctx), i, k.ks, i, string(body)); err != nil {
			return fmt.Errorf("renew lease %d: %w", i, err)
		}
		took := time.Since(began)
		k.mu.Lock()
		if k.counting {
			k.latencies = append(k.latencies, took)
		}
		k.mu.Unlock()
		pause = time.Duration(float64(period)*(1+0.04*(rng.Float64()-0.5))) - took
	}
	return nil
}
