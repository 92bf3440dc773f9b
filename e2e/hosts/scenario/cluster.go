//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"limpet/e2e/hosts"
	"limpet/e2e/proc"
)

// Every member has a host to itself, and so the usual ports.
const (
	ClientPort = 2379
	PeerPort   = 2380
)

const (
	patience   = 2 * time.Minute        // for what must happen at last
	attempt    = 3 * time.Second        // for one call among several
	checkPause = 100 * time.Millisecond // between two looks at a condition
	diskMiB    = 512
)

// Program is a kind of server that clusters are made of.
type Program struct {
	Kind proc.Kind
	// Flags is the command line of member m. members are those that the cluster has, m included;
	// founding tells whether they start the cluster together or m joins the others.
	Flags func(m *Member, members []*Member, founding bool) []string
	// TookImage is part of what a member logs when it has taken the state over from the leader,
	// because the leader's log does not go back far enough.
	TookImage string
	// Excused are errors that members give where they should say that they are not available.
	Excused []string
	// PromotesLearners tells that nobody needs to ask for a new member's promotion.
	PromotesLearners bool
	// FindsMembers tells that members find each other under new addresses without being told.
	FindsMembers bool
}

// Layout is what a story needs.
type Layout struct {
	Spares int  // hosts with a member that is not part of the cluster yet
	Disks  bool // every member's data is on a hosts.Disk
	// ShortLog asks for members that keep no more than a few hundred entries of their log.
	ShortLog bool
	// Finding says that the story is for Programs that FindsMembers alone.
	Finding bool
}

// Cluster is some members of one program. Its methods belong to the test's goroutine.
type Cluster struct {
	Net     *hosts.Net
	Program Program

	t       testing.TB
	members []*Member
	spares  []*Member
	hosts   map[string]*hosts.Host // by member name; never changed, so that dialling may read it
}

// founders is how many members a cluster starts with.
const founders = 3

// Found starts a cluster of three members and returns once they have a leader.
func Found(t testing.TB, program Program, layout Layout) *Cluster {
	t.Helper()
	c := gather(t, program, layout, founders+layout.Spares)
	c.members, c.spares = c.spares[:founders:founders], c.spares[founders:]
	for _, m := range c.members {
		m.founding = true
		m.Start()
	}
	c.Leader(c.members...)
	return c
}

// gather makes hosts with a member each, all spare and none started.
func gather(t testing.TB, program Program, layout Layout, count int) *Cluster {
	t.Helper()
	c := &Cluster{Net: hosts.New(t, count), Program: program, t: t, hosts: map[string]*hosts.Host{}}
	for _, h := range c.Net.Hosts() {
		c.spares = append(c.spares, c.newMember(h, layout))
	}
	return c
}

func (c *Cluster) newMember(h *hosts.Host, layout Layout) *Member {
	c.t.Helper()
	m := &Member{Name: "m" + h.Name()[1:], Host: h, ShortLog: layout.ShortLog, cluster: c}
	c.hosts[m.Name] = h
	dir := c.t.TempDir()
	if layout.Disks {
		m.Disk = h.NewDisk(diskMiB)
		dir = m.Disk.Dir()
	}
	m.DataDir = filepath.Join(dir, "data")
	m.Process = h.NewProcess(fmt.Sprintf("%s %s", c.Program.Kind, m.Name), proc.Binary(c.t, c.Program.Kind))
	conn, err := grpc.NewClient("passthrough:///"+m.endpoint(), append(c.dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	m.Conn = conn
	return m
}

// Members are those that belong to the cluster.
func (c *Cluster) Members() []*Member { return c.members }

// Others are the members without m.
func (c *Cluster) Others(m *Member) []*Member {
	var others []*Member
	for _, o := range c.members {
		if o != m {
			others = append(others, o)
		}
	}
	return others
}

// Client makes a client of the members given, or of all. It ends with the test.
func (c *Cluster) Client(members ...*Member) *clientv3.Client {
	c.t.Helper()
	if len(members) == 0 {
		members = c.members
	}
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, "http://"+m.endpoint())
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialOptions: c.dialOptions()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// dialOptions let clients dial from the hub, by the member's name, to wherever it is now. A client
// comes back quickly to a member that does, and notices when the other end of a connection is gone.
func (c *Cluster) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return c.Net.DialContext(ctx, "tcp", c.hosts[name].Addr(ClientPort))
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: time.Second,
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond},
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}
}

// Eventually waits until check returns nil; the test fails if it does not.
func (c *Cluster) Eventually(what string, check func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), patience, errors.New("deadline"))
	defer cancel()
	deadline, _ := ctx.Deadline()
	var last error // of a look that had all its time
	err := proc.Eventually(ctx, checkPause, func() error {
		whole := time.Until(deadline) >= attempt
		look, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		err := check(look)
		if whole {
			last = err
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("%s: %v; last: %v", what, context.Cause(ctx), last)
	}
}

// Leader waits until all the given members name the same one of them as their leader.
func (c *Cluster) Leader(members ...*Member) *Member {
	c.t.Helper()
	var leader *Member
	c.Eventually("a leader among "+names(members), func(ctx context.Context) (err error) {
		leader, err = agreed(ctx, members)
		return err
	})
	return leader
}

func agreed(ctx context.Context, members []*Member) (*Member, error) {
	ids, named := map[uint64]*Member{}, map[uint64]bool{}
	for _, m := range members {
		status, err := m.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", m.Name, err)
		}
		ids[status.Header.MemberId] = m
		named[status.Leader] = true
	}
	for id := range named {
		if len(named) == 1 && ids[id] != nil {
			return ids[id], nil
		}
	}
	return nil, fmt.Errorf("%v are named as leaders", named)
}

func names(members []*Member) string {
	var text []string
	for _, m := range members {
		text = append(text, m.Name)
	}
	return fmt.Sprint(text)
}

func hostsOf(members []*Member) []*hosts.Host {
	var all []*hosts.Host
	for _, m := range members {
		all = append(all, m.Host)
	}
	return all
}
